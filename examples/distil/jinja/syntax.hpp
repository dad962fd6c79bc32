#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "value.hpp"

/// The syntax tree of a template.
namespace program::jinja {

struct expression;
struct statement;
using expression_ptr = std::unique_ptr<const expression>;
using body = std::vector<statement>;

struct argument_list {
  std::vector<expression_ptr> positional;
  std::vector<std::pair<std::string, expression_ptr>> named;
};

struct constant {
  value x;
};
struct variable {
  std::string name;
};
struct list_display {
  bool tuple;
  std::vector<expression_ptr> items;
};
struct dict_display {
  std::vector<std::pair<expression_ptr, expression_ptr>> items;
};
struct attribute {
  expression_ptr of;
  std::string name;
};
struct subscript {
  expression_ptr of, key;
};
struct slice {
  expression_ptr of, start, stop, step;  ///< those left out are null
};
struct call {
  expression_ptr function;
  argument_list arguments;
};
struct filtered {
  expression_ptr of;  ///< null in a block with filters, whose text it is
  std::string name;
  argument_list arguments;
};
struct tested {
  expression_ptr of;
  std::string name;
  argument_list arguments;
};
struct unary {
  char op;  ///< '+', '-' or '!' for not
  expression_ptr x;
};
struct binary {
  std::string op;  ///< + - * / // % ** and or
  expression_ptr left, right;
};
struct concatenation {
  std::vector<expression_ptr> parts;
};
struct comparison {
  expression_ptr first;
  std::vector<std::pair<std::string, expression_ptr>> rest;  ///< == != < <= > >= in, or "not in"
};
struct conditional {
  expression_ptr test, yes, no;  ///< `no` may be null
};

struct expression {
  int line;
  std::size_t depth;
  std::variant<constant, variable, list_display, dict_display, attribute, subscript, slice, call, filtered,
               tested, unary, binary, concatenation, comparison, conditional>
      node;
};

/// What is assigned to: a name, an attribute of a namespace, or several targets.
struct target {
  std::string name = {}, attribute = {};
  std::vector<target> parts = {};
};

struct data {
  std::string text;
};
struct output {
  expression_ptr x;
};
struct assignment {
  target to;
  expression_ptr x;
};
/// The text of a block under filters, innermost first, assigned or (without a target) printed.
struct captured {
  bool assigned;
  target to;
  std::vector<filtered> filters;
  body content;
};
struct condition_chain {
  std::vector<std::pair<expression_ptr, body>> branches;
  body otherwise;
};
struct for_loop {
  target each;
  expression_ptr in, test;
  body content, otherwise;
};
struct macro {
  std::string name;
  std::vector<std::pair<std::string, expression_ptr>> parameters;  ///< with their defaults or null
  body content;
};
/// A scope of its own: with, generation.
struct scoped {
  std::vector<std::pair<target, expression_ptr>> variables;
  body content;
};
struct jump {
  bool out;  ///< break; else continue
};

struct statement {
  int line;
  std::variant<data, output, assignment, captured, condition_chain, for_loop, macro, scoped, jump> node;
};

struct syntax_tree {
  body content;
  /// Assignments (line, name) that refuse the template where the name is a variable of the rendering.
  std::vector<std::pair<int, std::string>> late;
};

}  // namespace program::jinja
