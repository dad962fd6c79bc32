#pragma once

// Every job, for the files that compile them: one a device and a precision, so that they are compiled side by
// side.
#include "cache_run.hpp"
#include "evaluate_run.hpp"
#include "generate_run.hpp"
#include "logits_run.hpp"
#include "training_run.hpp"

#define INSTANTIATE_JOBS(D)                                         \
  template int program::cache_request::run<D::scalar>(D&) const;    \
  template int program::training_request::run<D::scalar>(D&) const; \
  template int program::generate_request::run<D::scalar>(D&) const; \
  template int program::evaluate_request::run<D::scalar>(D&) const; \
  template int program::logits_request::run<D::scalar>(D&) const
