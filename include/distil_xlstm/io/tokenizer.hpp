#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <queue>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/io/atomic_file.hpp>
#include <distil_xlstm/io/gguf.hpp>
#include <distil_xlstm/io/json.hpp>
#include <distil_xlstm/io/printable.hpp>
#include <distil_xlstm/io/sha256.hpp>
#include <distil_xlstm/io/utf8.hpp>

namespace distil_xlstm::io {

/// A token that is found in the text as it is written, before anything else is done to the text.
struct special_token {
  std::int32_t id = -1;
  std::string text;
  bool control = true;      ///< found only where the caller asks for special tokens to be parsed
  bool normalized = false;  ///< looked for after the normalisation of the text, not before
};

/// A byte-level BPE tokenizer as plain data, whichever file it came from.
struct tokenizer_data {
  std::string name = "tokenizer";  ///< what errors call it: the file
  /// By id: in GPT-2's byte-to-unicode alphabet, special tokens literally; empty where an id has no token.
  std::vector<std::string> tokens;
  std::vector<std::pair<std::string, std::string>> merges;  ///< best first
  std::vector<special_token> specials;
  std::string pre = "gpt-2";   ///< the pre-tokenizer: "gpt-2", "smollm", "qwen2" or "llama-bpe"
  bool nfc = false;            ///< the text is brought to Unicode's normal form C
  bool ignore_merges = false;  ///< a word that is a token needs no merges
  std::int32_t unknown = -1;   ///< stands for a byte without a token; -1: such bytes are dropped
  std::int32_t bos = -1, eos = -1;
  bool add_bos = false;                   ///< the model expects `bos` before a text; `encode` never adds it
  std::vector<std::int32_t> end_of_text;  ///< ids at which generation stops
  std::string chat_template;
};

namespace detail {

/// GPT-2's bijection of bytes and printable characters: the code point that stands for each byte.
inline const std::array<std::uint16_t, 256>& byte_alphabet() {
  static const auto table = [] {
    std::array<std::uint16_t, 256> t{};
    std::uint16_t next = 256;
    for (unsigned b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      t[b] = printable ? static_cast<std::uint16_t>(b) : next++;
    }
    return t;
  }();
  return table;
}

/// A byte as its character of the alphabet, in UTF-8 (all are below U+0800).
inline std::string alphabet_character(unsigned char byte) {
  const unsigned c = byte_alphabet()[byte];
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
}

/// The bytes that a token in the alphabet stands for; a token with any other character stands for itself.
inline std::string token_bytes(std::string_view token) {
  static const auto inverse = [] {
    std::array<std::int16_t, 0x800> t;
    t.fill(-1);
    for (unsigned b = 0; b < 256; ++b) t[byte_alphabet()[b]] = static_cast<std::int16_t>(b);
    return t;
  }();
  std::string out;
  for (std::size_t i = 0; i < token.size();) {
    unsigned c = static_cast<unsigned char>(token[i++]);
    if (c >= 0x80) {
      if (c < 0xc0 || c >= 0xe0 || i == token.size()) return std::string(token);
      c = (c & 0x1f) << 6 | (static_cast<unsigned char>(token[i++]) & 0x3f);
    }
    if (inverse[c] < 0) return std::string(token);
    out += static_cast<char>(inverse[c]);
  }
  return out;
}

/// Unicode's White_Space. PCRE2's own \s also holds U+180E, which left the property with Unicode 6.3.
#define DISTIL_XLSTM_SPACE \
  R"(\t-\r\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"

struct pre_tokenizer {
  std::string_view name;
  std::string_view hugging_face;  ///< the regular expression as a tokenizer.json spells it
  const char* pcre;
};

/// The pre-tokenizers of the family. `smollm` first cuts the text at every digit and then applies GPT-2's
/// expression to each piece; in one expression that is: digits one by one, and the blanks before a digit stay
/// together, because a piece ends there.
inline constexpr pre_tokenizer pre_tokenizers[] = {
    {"gpt-2", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
     "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" DISTIL_XLSTM_SPACE "\\p{L}\\p{N}]+|[" DISTIL_XLSTM_SPACE
     "]+(?![^" DISTIL_XLSTM_SPACE "])|[" DISTIL_XLSTM_SPACE "]+"},
    {"smollm",
     {},
     "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+|\\p{N}| ?[^" DISTIL_XLSTM_SPACE "\\p{L}\\p{N}]+|[" DISTIL_XLSTM_SPACE
     "]+(?![^" DISTIL_XLSTM_SPACE "\\p{N}])|[" DISTIL_XLSTM_SPACE "]+"},
    {"qwen2",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" DISTIL_XLSTM_SPACE
     "\\p{L}\\p{N}]+[\\r\\n]*|[" DISTIL_XLSTM_SPACE "]*[\\r\\n]+|[" DISTIL_XLSTM_SPACE
     "]+(?![^" DISTIL_XLSTM_SPACE "])|[" DISTIL_XLSTM_SPACE "]+"},
    {"llama-bpe",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^" DISTIL_XLSTM_SPACE
     "\\p{L}\\p{N}]+[\\r\\n]*|[" DISTIL_XLSTM_SPACE "]*[\\r\\n]+|[" DISTIL_XLSTM_SPACE
     "]+(?![^" DISTIL_XLSTM_SPACE "])|[" DISTIL_XLSTM_SPACE "]+"},
};
#undef DISTIL_XLSTM_SPACE

inline const pre_tokenizer* find_pre_tokenizer(std::string_view name) {
  for (const auto& p : pre_tokenizers)
    if (p.name == name) return &p;
  return nullptr;
}

struct pcre_free {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};

/// A family's expression, compiled: cuts a text into words. Const use from many threads is safe.
class word_pattern {
 public:
  explicit word_pattern(const char* pattern) {
    int code = 0;
    std::size_t at = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, &code, &at, nullptr),
                [](pcre2_code* p) { pcre2_code_free(p); });
    require(code_ != nullptr, "PCRE2 refuses the pre-tokenizer's expression: error ", code, " at ", at);
    // Where PCRE2 has no just-in-time compiler the interpreter gives the same matches.
    jit_ = pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE) == 0;
  }

  /// Length of the word that begins at `text[at]`.
  std::size_t word(std::string_view text, std::size_t at, pcre2_match_data* match,
                   pcre2_match_context* limits) const {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int found = PCRE2_ERROR_JIT_STACKLIMIT;
    if (jit_) found = pcre2_jit_match(code_.get(), subject, text.size(), at, 0, match, limits);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
      found =
          pcre2_match(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, limits);
    require(found > 0, "PCRE2 fails with ", found, " at byte ", at, " of the text");
    return pcre2_get_ovector_pointer(match)[1] - at;
  }

 private:
  std::shared_ptr<pcre2_code> code_;
  bool jit_ = false;
};

/// The best merge of two neighbours, by rank; an open-addressing table from the pair of ids.
class merge_table {
 public:
  struct merge {
    std::uint32_t rank = none;
    std::int32_t id = -1;
  };
  static constexpr std::uint32_t none = ~std::uint32_t{0};

  explicit merge_table(std::size_t merges = 0) {
    while (std::size_t{1} << bits_ < 2 * merges + 2) ++bits_;
    slots_.resize(std::size_t{1} << bits_);
  }
  /// A pair that is listed twice counts at its later place, as in Hugging Face's tokenizers.
  void insert(std::int32_t left, std::int32_t right, merge m) {
    slot& s = const_cast<slot&>(at(key(left, right)));
    s = {key(left, right), m};
  }
  merge find(std::int32_t left, std::int32_t right) const { return at(key(left, right)).value; }

 private:
  static constexpr std::uint64_t empty = ~std::uint64_t{0};
  struct slot {
    std::uint64_t key = empty;
    merge value;
  };
  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }
  const slot& at(std::uint64_t k) const {
    const std::uint64_t hash = (k ^ k >> 29) * 0x9e3779b97f4a7c15u;
    for (std::size_t i = hash >> (64 - bits_);; i = (i + 1) & (slots_.size() - 1))
      if (slots_[i].key == k || slots_[i].key == empty) return slots_[i];
  }
  unsigned bits_ = 4;
  std::vector<slot> slots_;
};

/// Finds special tokens: the first in the text, the longest of those that begin there.
class special_finder {
 public:
  void insert(std::string text, std::int32_t id, bool control) {
    if (text.empty()) return;
    auto& bucket = buckets_[static_cast<unsigned char>(text[0])];
    const auto at = std::find_if(bucket.begin(), bucket.end(),
                                 [&](const candidate& c) { return c.text.size() < text.size(); });
    bucket.insert(at, {std::move(text), id, control});
    (control ? any_control_ : any_other_) = true;
  }
  struct hit {
    std::size_t at, length;
    std::int32_t id;
  };
  /// The next hit at or after `from`; at = text.size() and id = -1 where there is none.
  hit next(std::string_view text, std::size_t from, bool control) const {
    if (any_other_ || (control && any_control_)) {
      for (std::size_t i = from; i < text.size(); ++i)
        for (const candidate& c : buckets_[static_cast<unsigned char>(text[i])])
          if ((control || !c.control) && text.substr(i).starts_with(c.text)) return {i, c.text.size(), c.id};
    }
    return {text.size(), 0, -1};
  }

 private:
  struct candidate {
    std::string text;
    std::int32_t id;
    bool control;
  };
  std::array<std::vector<candidate>, 256> buckets_;
  bool any_control_ = false, any_other_ = false;
};

/// `text` in normal form C, through `memory` where it has to change.
inline std::string_view normal_form_c(std::string_view text, std::string& memory) {
  // Below U+0300 (lead byte 0xcc) nothing composes or is reordered.
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xcc; }))
    return text;
  utf8proc_uint8_t* out = nullptr;
  const auto n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                              static_cast<utf8proc_ssize_t>(text.size()), &out,
                              static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  require(n >= 0, "utf8proc fails on the text: ", utf8proc_errmsg(n));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(out, &std::free);
  memory.assign(reinterpret_cast<const char*>(out), static_cast<std::size_t>(n));
  return memory;
}

struct text_hash {
  using is_transparent = void;
  std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
};
template <class Value>
using text_map = std::unordered_map<std::string, Value, text_hash, std::equal_to<>>;

}  // namespace detail

/// What a text becomes.
struct encoded {
  std::vector<std::int32_t> ids;
  std::size_t dropped_bytes = 0;  ///< bytes for which the vocabulary has no token
};

/// Working memory of `tokenizer::encode`, with the words seen so far. One a thread, for any tokenizers in turn.
class tokenizer_scratch {
 public:
  tokenizer_scratch()
      : match_(pcre2_match_data_create(1, nullptr)), limits_(pcre2_match_context_create(nullptr)) {
    require(match_ && limits_, "PCRE2 has no memory left");
    // A long run of blanks may be walked back over in full; no text may fail for its length.
    constexpr auto most = std::numeric_limits<std::uint32_t>::max();
    pcre2_set_match_limit(limits_.get(), most);
    pcre2_set_depth_limit(limits_.get(), most);
    pcre2_set_heap_limit(limits_.get(), most);
  }

 private:
  friend class tokenizer;
  static constexpr std::size_t longest_kept = 48, most_kept = std::size_t{1} << 17;
  struct word {
    std::size_t first = 0, count = 0, dropped = 0;
  };
  struct symbol {
    std::int32_t id, previous, next;
  };

  std::unique_ptr<pcre2_match_data, detail::pcre_free> match_;
  std::unique_ptr<pcre2_match_context, detail::pcre_free> limits_;
  std::uint64_t serial_ = 0;  ///< of the tokenizer whose words are kept
  detail::text_map<word> words_;
  std::vector<std::int32_t> word_ids_;
  std::vector<symbol> symbols_;
  std::vector<detail::merge_table::merge> pairs_;
  std::string normal_;
};

/// A byte-level BPE tokenizer of the GPT-2 / SmolLM2 / Qwen2 / Llama-3 family: special tokens are cut out, the
/// rest is normalised, cut into words by the family's expression, and each word's bytes are merged, lowest rank
/// first (Sennrich et al. 2016; Radford et al. 2019). Const use from many threads is safe.
class tokenizer {
 public:
  /// Throws `error` naming `data.name` and the token, merge or option that does not fit.
  explicit tokenizer(tokenizer_data data) : data_(checked(std::move(data))), pattern_(pattern_of(data_)) {
    text_map_of_tokens ids = ids_by_text(data_);
    for (unsigned b = 0; b < 256; ++b) {
      const auto at = ids.find(detail::alphabet_character(static_cast<unsigned char>(b)));
      byte_ids_[b] = at != ids.end() ? at->second : data_.unknown;
    }
    merges_ = detail::merge_table(data_.merges.size());
    std::string whole;
    for (std::size_t i = 0; i < data_.merges.size(); ++i) {
      const std::string &left = data_.merges[i].first, &right = data_.merges[i].second;
      const auto id = [&](std::string_view text) {
        const auto at = ids.find(text);
        if (at == ids.end())
          fail(data_.name, ": merge ", i, " (", detail::printable(left, 40), " ", detail::printable(right, 40),
               ") needs the token ", detail::printable(text, 80), ", which the vocabulary lacks");
        return at->second;
      };
      whole.assign(left).append(right);
      merges_.insert(id(left), id(right), {static_cast<std::uint32_t>(i), id(whole)});
    }
    bytes_.reserve(data_.tokens.size());
    for (const auto& t : data_.tokens) bytes_.push_back(detail::token_bytes(t));
    special_.resize(data_.tokens.size());
    for (const auto& s : data_.specials) {
      const auto id = static_cast<std::size_t>(s.id);
      special_[id] = s.control ? control : literal;
      bytes_[id] = s.text;
      std::string memory;
      const bool later = s.normalized && data_.nfc;
      (s.normalized ? specials_after_ : specials_)
          .insert(later ? std::string(detail::normal_form_c(s.text, memory)) : s.text, s.id, s.control);
    }
    if (data_.ignore_merges)
      for (std::size_t i = 0; i < bytes_.size(); ++i)
        if (special_[i] == ordinary && !bytes_[i].empty())
          whole_words_.emplace(bytes_[i], static_cast<std::int32_t>(i));
    static std::atomic<std::uint64_t> serials{0};
    serial_ = ++serials;
  }

  const tokenizer_data& data() const { return data_; }
  /// Ids are below this; some may have no token.
  index vocab_size() const { return static_cast<index>(data_.tokens.size()); }

  /// The ids of a text; no token is added. Without `parse_special` control tokens written in the text are
  /// ordinary text. Throws `error` naming the byte where the text is not UTF-8 (the caller knows the file).
  encoded encode(std::string_view text, bool parse_special = true) const {
    tokenizer_scratch scratch;
    return encode(text, parse_special, scratch);
  }
  /// The same, faster over many texts: `scratch` remembers words.
  encoded encode(std::string_view text, bool parse_special, tokenizer_scratch& scratch) const {
    const std::size_t bad = first_invalid_utf8(text);
    require(bad == std::string_view::npos, "not valid UTF-8 at byte ", bad);
    if (scratch.serial_ != serial_) {
      scratch.words_.clear();
      scratch.word_ids_.clear();
      scratch.serial_ = serial_;
    }
    encoded out;
    out.ids.reserve(text.size() / 4 + 1);
    each_piece(text, specials_, parse_special, out, [&](std::string_view piece) {
      if (data_.nfc) piece = detail::normal_form_c(piece, scratch.normal_);
      each_piece(piece, specials_after_, parse_special, out,
                 [&](std::string_view plain) { encode_plain(plain, scratch, out); });
    });
    return out;
  }

  /// The bytes that one id stands for; empty where the id has no token. Throws where it is no id at all.
  std::string_view bytes(std::int32_t id) const { return bytes_[checked_id(id)]; }
  bool is_control(std::int32_t id) const { return special_[checked_id(id)] == control; }
  bool is_end_of_text(std::int32_t id) const {
    return std::find(data_.end_of_text.begin(), data_.end_of_text.end(), id) != data_.end_of_text.end();
  }
  /// The id of a special token by its text, or -1.
  std::int32_t find_special(std::string_view text) const {
    for (const auto& s : data_.specials)
      if (s.text == text) return s.id;
    return -1;
  }
  /// The id that begins a document in a training stream: <|endoftext|> where there is one, else bos where the
  /// model expects it, else eos; -1 where none is known.
  std::int32_t document_start() const {
    if (const auto id = find_special("<|endoftext|>"); id >= 0) return id;
    return data_.add_bos && data_.bos >= 0 ? data_.bos : data_.eos;
  }

  /// The bytes of a sequence; they need not be whole characters (`replace_invalid_utf8`, `stream_decoder`).
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = false) const {
    std::string out;
    for (const auto id : ids)
      if (!(skip_special && is_control(id))) out += bytes(id);
    return out;
  }

  /// SHA-256 over what decides about ids: the same for a GGUF file and a tokenizer.json of one tokenizer.
  std::string fingerprint() const {
    sha256 hash;
    const auto text = [&](std::string_view s) {
      const std::string size = std::to_string(s.size()) + ":";
      hash.update(size.data(), size.size()).update(s.data(), s.size());
    };
    const auto number = [&](auto n) { text(std::to_string(n)); };
    text("distil_xlstm tokenizer 1");
    text(data_.pre);
    number(data_.nfc ? 1 : 0);
    number(data_.ignore_merges ? 1 : 0);
    // `unknown` decides about nothing where every byte has a token, and shows in byte_ids_ where not.
    for (const auto id : byte_ids_) number(id);
    std::vector<std::pair<std::int32_t, std::string_view>> specials;
    for (const auto& s : data_.specials) specials.emplace_back(s.id, s.text);
    std::sort(specials.begin(), specials.end());
    number(specials.size());
    for (const auto& [id, s] : specials) number(id), text(s);
    for (std::size_t i = 0; i < data_.tokens.size(); ++i)
      if (special_[i] == ordinary && !data_.tokens[i].empty()) number(i), text(data_.tokens[i]);
    number(data_.merges.size());
    for (const auto& [left, right] : data_.merges) text(left), text(right);
    return hash.hex();
  }

 private:
  enum kind : std::uint8_t { ordinary, control, literal };
  using text_map_of_tokens = std::unordered_map<std::string_view, std::int32_t>;
  static constexpr std::size_t short_word = 48;

  static text_map_of_tokens ids_by_text(const tokenizer_data& d) {
    text_map_of_tokens ids;
    ids.reserve(d.tokens.size());
    for (std::size_t i = 0; i < d.tokens.size(); ++i) {
      if (d.tokens[i].empty()) continue;
      const auto [at, fresh] = ids.emplace(d.tokens[i], static_cast<std::int32_t>(i));
      require(fresh, d.name, ": the ids ", at->second, " and ", i, " have the same token ",
              detail::printable(d.tokens[i], 80));
    }
    return ids;
  }

  static tokenizer_data checked(tokenizer_data d) {
    constexpr std::size_t most = std::size_t{1} << 30;
    require(!d.tokens.empty(), d.name, ": the vocabulary is empty");
    require(d.tokens.size() < most && d.merges.size() < most, d.name, ": ", d.tokens.size(), " tokens and ",
            d.merges.size(), " merges are too many");
    const auto size = static_cast<std::int64_t>(d.tokens.size());
    for (std::size_t i = 0; i < d.tokens.size(); ++i)
      require(is_valid_utf8(d.tokens[i]), d.name, ": token ", i, " is not valid UTF-8");
    std::vector<bool> seen(d.tokens.size());
    for (const auto& s : d.specials) {
      require(s.id >= 0 && s.id < size, d.name, ": the special token ", detail::printable(s.text, 80),
              " has id ", s.id, ", the vocabulary ", size);
      require(!seen[static_cast<std::size_t>(s.id)], d.name, ": two special tokens have the id ", s.id);
      seen[static_cast<std::size_t>(s.id)] = true;
      require(!s.text.empty() && s.text == d.tokens[static_cast<std::size_t>(s.id)], d.name,
              ": the special token ", detail::printable(s.text, 80), " is ",
              detail::printable(d.tokens[static_cast<std::size_t>(s.id)], 80), " in the vocabulary");
    }
    const auto in_range = [&](std::int64_t id, const char* what) {
      require(id >= -1 && id < size, d.name, ": the ", what, " id is ", id, ", the vocabulary has ", size);
    };
    in_range(d.unknown, "unknown token's");
    in_range(d.bos, "bos");
    in_range(d.eos, "eos");
    for (const auto id : d.end_of_text) in_range(id, "end-of-text");
    return d;
  }

  static detail::word_pattern pattern_of(const tokenizer_data& d) {
    const auto* p = detail::find_pre_tokenizer(d.pre);
    require(p, d.name, ": the pre-tokenizer ", detail::printable(d.pre, 60), " is not supported");
    return detail::word_pattern(p->pcre);
  }

  std::size_t checked_id(std::int32_t id) const {
    require(id >= 0 && id < vocab_size(), data_.name, ": there is no token ", id, ", the vocabulary has ",
            vocab_size());
    return static_cast<std::size_t>(id);
  }

  template <class F>
  static void each_piece(std::string_view text, const detail::special_finder& specials, bool parse_special,
                         encoded& out, F&& between) {
    for (std::size_t at = 0; at < text.size();) {
      const auto hit = specials.next(text, at, parse_special);
      if (hit.at > at) between(text.substr(at, hit.at - at));
      if (hit.id >= 0) out.ids.push_back(hit.id);
      at = hit.at + hit.length;
    }
  }

  void encode_plain(std::string_view text, tokenizer_scratch& scratch, encoded& out) const {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t n = pattern_.word(text, at, scratch.match_.get(), scratch.limits_.get());
      encode_word(text.substr(at, n), scratch, out);
      at += n;
    }
  }

  void encode_word(std::string_view word, tokenizer_scratch& scratch, encoded& out) const {
    if (word.size() > tokenizer_scratch::longest_kept) {
      merge_word(word, scratch, out);
      return;
    }
    if (const auto at = scratch.words_.find(word); at != scratch.words_.end()) {
      const auto& kept = at->second;
      const auto first = scratch.word_ids_.begin() + static_cast<std::ptrdiff_t>(kept.first);
      out.ids.insert(out.ids.end(), first, first + static_cast<std::ptrdiff_t>(kept.count));
      out.dropped_bytes += kept.dropped;
      return;
    }
    const std::size_t ids = out.ids.size(), dropped = out.dropped_bytes;
    merge_word(word, scratch, out);
    if (scratch.words_.size() >= tokenizer_scratch::most_kept) {
      scratch.words_.clear();
      scratch.word_ids_.clear();
    }
    const std::size_t first = scratch.word_ids_.size();
    scratch.word_ids_.insert(scratch.word_ids_.end(), out.ids.begin() + static_cast<std::ptrdiff_t>(ids),
                             out.ids.end());
    scratch.words_.emplace(std::string(word),
                           tokenizer_scratch::word{first, out.ids.size() - ids, out.dropped_bytes - dropped});
  }

  void merge_word(std::string_view word, tokenizer_scratch& scratch, encoded& out) const {
    if (data_.ignore_merges) {
      if (const auto at = whole_words_.find(word); at != whole_words_.end()) {
        out.ids.push_back(at->second);
        return;
      }
    }
    require(word.size() < std::size_t{1} << 30, "a word of ", word.size(), " bytes is too long");
    auto& symbols = scratch.symbols_;
    symbols.clear();
    for (const char c : word) {
      const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
      if (id < 0) {
        ++out.dropped_bytes;
        continue;
      }
      const auto i = static_cast<std::int32_t>(symbols.size());
      symbols.push_back({id, i - 1, i + 1});
    }
    if (symbols.size() <= short_word) {
      merge_short(scratch, out);
    } else {
      merge_long(scratch, out);
    }
  }

  /// Lowest rank first, the leftmost of equals, by looking at all neighbours each time: O(n^2), no allocation.
  void merge_short(tokenizer_scratch& scratch, encoded& out) const {
    auto& symbols = scratch.symbols_;
    auto& pairs = scratch.pairs_;
    std::size_t n = symbols.size();
    pairs.assign(n + 1, {});
    for (std::size_t i = 0; i + 1 < n; ++i) pairs[i] = merges_.find(symbols[i].id, symbols[i + 1].id);
    while (n > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < n; ++i)
        if (pairs[i].rank < pairs[best].rank) best = i;
      if (pairs[best].rank == detail::merge_table::none) break;
      symbols[best].id = pairs[best].id;
      for (std::size_t i = best + 1; i + 1 < n; ++i) symbols[i].id = symbols[i + 1].id, pairs[i] = pairs[i + 1];
      --n;
      if (best > 0) pairs[best - 1] = merges_.find(symbols[best - 1].id, symbols[best].id);
      pairs[best] =
          best + 1 < n ? merges_.find(symbols[best].id, symbols[best + 1].id) : detail::merge_table::merge{};
    }
    for (std::size_t i = 0; i < n; ++i) out.ids.push_back(symbols[i].id);
  }

  /// The same with a linked list and a priority queue: O(n log n).
  void merge_long(tokenizer_scratch& scratch, encoded& out) const {
    auto& symbols = scratch.symbols_;
    const auto n = static_cast<std::int32_t>(symbols.size());
    const auto at = [&](std::int32_t i) -> tokenizer_scratch::symbol& {
      return symbols[static_cast<std::size_t>(i)];
    };
    struct candidate {
      std::uint32_t rank;
      std::int32_t left, left_id, right_id, id;
      bool operator>(const candidate& o) const { return std::tie(rank, left) > std::tie(o.rank, o.left); }
    };
    const auto candidate_at = [&](std::int32_t left) -> candidate {
      const std::int32_t a = at(left).id, b = at(at(left).next).id;
      const auto m = merges_.find(a, b);
      return {m.rank, left, a, b, m.id};
    };
    std::vector<candidate> first;
    for (std::int32_t i = 0; i + 1 < n; ++i)
      if (const auto c = candidate_at(i); c.rank != detail::merge_table::none) first.push_back(c);
    std::priority_queue queue(std::greater<candidate>(), std::move(first));
    const auto offer = [&](std::int32_t left) {
      if (left < 0 || at(left).next >= n) return;
      if (const auto c = candidate_at(left); c.rank != detail::merge_table::none) queue.push(c);
    };
    while (!queue.empty()) {
      const candidate c = queue.top();
      queue.pop();
      auto& left = at(c.left);
      if (left.id != c.left_id || left.next >= n || at(left.next).id != c.right_id) continue;  // one has merged
      auto& right = at(left.next);
      left.id = c.id;
      right.id = -1;
      left.next = right.next;
      if (left.next < n) at(left.next).previous = c.left;
      offer(left.previous);
      offer(c.left);
    }
    for (std::int32_t i = 0; i < n; i = at(i).next) out.ids.push_back(at(i).id);
  }

  tokenizer_data data_;
  detail::word_pattern pattern_;
  std::array<std::int32_t, 256> byte_ids_{};
  detail::merge_table merges_;
  detail::special_finder specials_, specials_after_;
  detail::text_map<std::int32_t> whole_words_;
  std::vector<std::string> bytes_;
  std::vector<kind> special_;
  std::uint64_t serial_ = 0;
};

/// Turns ids into text as they come, whole characters only; what can become none is U+FFFD.
class stream_decoder {
 public:
  /// The tokenizer must outlive the decoder.
  explicit stream_decoder(const tokenizer& t, bool skip_special = false)
      : tokenizer_(&t), skip_(skip_special) {}

  /// The text that one more id completes; often empty. An id beyond the vocabulary, where a model has more rows
  /// than its tokenizer has tokens, is no text.
  std::string put(std::int32_t id) {
    if (id >= tokenizer_->vocab_size()) return {};
    if (skip_ && tokenizer_->is_control(id)) return {};
    held_ += tokenizer_->bytes(id);
    const std::size_t whole = held_.size() - incomplete_utf8_tail(held_);
    std::string out = replace_invalid_utf8(std::string_view(held_).substr(0, whole));
    held_.erase(0, whole);
    return out;
  }
  /// The end: a character that stayed incomplete.
  std::string finish() { return replace_invalid_utf8(std::exchange(held_, {})); }

 private:
  const tokenizer* tokenizer_;
  bool skip_;
  std::string held_;
};

namespace detail {

/// Fills `end_of_text`: eos, and the tokens by which the family's models end a text or a turn.
inline void collect_ends(tokenizer_data& d) {
  auto& ends = d.end_of_text;
  if (d.eos >= 0) ends.push_back(d.eos);
  for (const auto& s : d.specials)
    for (const char* name : {"<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"})
      if (s.text == name) ends.push_back(s.id);
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
}

}  // namespace detail

/// The tokenizer of a GGUF file. Throws `error` naming the file and what is not of this family.
inline tokenizer_data read_tokenizer(const gguf_file& file) {
  tokenizer_data d;
  d.name = file.path();
  const auto model = file.get_string("tokenizer.ggml.model");
  require(model == "gpt2", d.name, ": tokenizer.ggml.model ", detail::printable(model, 60),
          " is not supported, only gpt2 (byte-level BPE)");
  const auto pre = file.get_string("tokenizer.ggml.pre");
  static constexpr std::pair<std::string_view, std::string_view> known[] = {
      {"gpt-2", "gpt-2"},      {"default", "gpt-2"},      {"smollm", "smollm"},      {"qwen2", "qwen2"},
      {"llama3", "llama-bpe"}, {"llama-v3", "llama-bpe"}, {"llama-bpe", "llama-bpe"}};
  const auto* family =
      std::find_if(std::begin(known), std::end(known), [&](const auto& k) { return k.first == pre; });
  require(family != std::end(known), d.name, ": tokenizer.ggml.pre ", detail::printable(pre, 60),
          " is not supported");
  d.pre = family->second;
  // What these two families' own tokenizer.json say, and a GGUF file has no key for.
  d.nfc = d.pre == "qwen2";
  d.ignore_merges = d.pre == "llama-bpe";

  const auto& tokens = file.get_strings("tokenizer.ggml.tokens");
  d.tokens.assign(tokens.begin(), tokens.end());
  if (file.find_key("tokenizer.ggml.token_type")) {
    enum : std::int32_t { unknown = 2, control = 3, user_defined = 4, unused = 5 };
    const auto types = file.get_i32s("tokenizer.ggml.token_type");
    require(types.size() == tokens.size(), d.name, ": tokenizer.ggml.token_type has ", types.size(),
            " elements, tokenizer.ggml.tokens ", tokens.size());
    for (std::size_t i = 0; i < types.size(); ++i) {
      if (types[i] == unused) {
        d.tokens[i].clear();
      } else if (types[i] == unknown || types[i] == control || types[i] == user_defined) {
        d.specials.push_back({static_cast<std::int32_t>(i), d.tokens[i], types[i] != user_defined, false});
      }
    }
  }
  const auto& merges = file.get_strings("tokenizer.ggml.merges");
  d.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const auto blank = merges[i].find(' ', 1);
    require(blank != merges[i].npos && blank + 1 < merges[i].size(), d.name, ": tokenizer.ggml.merges ", i,
            " is ", detail::printable(merges[i], 80), ", not two tokens");
    d.merges.emplace_back(merges[i].substr(0, blank), merges[i].substr(blank + 1));
  }
  const auto id = [&](std::string_view key) {
    const auto value = file.get_i64_or(key, -1);
    require(value >= -1 && value < static_cast<std::int64_t>(tokens.size()), d.name, ": ", key, " is ", value,
            ", the vocabulary has ", tokens.size());
    return static_cast<std::int32_t>(value);
  };
  d.bos = id("tokenizer.ggml.bos_token_id");
  d.eos = id("tokenizer.ggml.eos_token_id");
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (const auto end = id(key); end >= 0) d.end_of_text.push_back(end);
  d.add_bos = file.get_bool_or("tokenizer.ggml.add_bos_token", false);
  d.chat_template = file.get_string_or("tokenizer.chat_template", "");
  detail::collect_ends(d);
  return d;
}

namespace detail {

/// Reads the parts of a tokenizer.json; whatever is not of the family is refused by its name.
class tokenizer_json_reader {
 public:
  tokenizer_json_reader(const json& root, std::string_view name) : root_(root), name_(name) {
    data_.name = name;
  }

  tokenizer_data read() {
    read_model();
    read_added_tokens();
    read_normalizer();
    read_pre_tokenizer();
    read_decoder();
    read_post_processor();
    collect_ends(data_);
    return std::move(data_);
  }

 private:
  static std::string type_of(const json& part) {
    const auto at = part.is_object() ? part.find("type") : part.end();
    return part.is_object() && at != part.end() && at->is_string() ? at->get<std::string>() : std::string("?");
  }
  const json* part(const char* key) const {
    require(root_.is_object(), name_, ": a JSON object is expected");
    const auto at = root_.find(key);
    return at == root_.end() || at->is_null() ? nullptr : &*at;
  }
  [[noreturn]] void refuse(std::string_view what, const json& value) const {
    fail(name_, ": ", what, " ", printable(value.dump(-1, ' ', false, json::error_handler_t::replace), 160),
         " is not supported");
  }
  std::int32_t checked_id(std::int64_t id, std::string_view token) const {
    // Every id takes memory, so that the ids must be about as many as the tokens.
    require(id >= 0 && id < most_, name_, ": token ", printable(token, 80), " has id ", id, ", there are ",
            count_, " tokens");
    return static_cast<std::int32_t>(id);
  }
  void place(std::string_view token, std::int32_t id) {
    const auto at = static_cast<std::size_t>(id);
    if (at >= data_.tokens.size()) data_.tokens.resize(at + 1);
    require(data_.tokens[at].empty() || data_.tokens[at] == token, name_, ": the tokens ",
            printable(data_.tokens[at], 80), " and ", printable(token, 80), " have the same id ", id);
    data_.tokens[at] = token;
  }

  void read_model() {
    const json& model = member(root_, "model", name_);
    const auto type = get_or<std::string>(model, "type", name_, "BPE");
    require(type == "BPE", name_, ": the model ", printable(type, 60), " is not supported, only BPE");
    const json& vocab = member(model, "vocab", name_);
    const json& merges = member(model, "merges", name_);
    if (!vocab.is_object()) refuse("the vocabulary", vocab);
    if (!merges.is_array()) refuse("the list of merges", merges);
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      require(get_or<std::string>(model, key, name_, "").empty(), name_, ": model.", key, " is not supported");
    require(get_or<double>(model, "dropout", name_, 0) == 0, name_, ": model.dropout is not supported");
    require(!get_or<bool>(model, "byte_fallback", name_, false), name_,
            ": model.byte_fallback is not supported");
    data_.ignore_merges = get_or<bool>(model, "ignore_merges", name_, false);

    const json* added = part("added_tokens");
    count_ = static_cast<std::int64_t>(vocab.size() + (added ? added->size() : 0));
    most_ = 2 * count_ + 1024;
    for (const auto& [token, id] : vocab.items()) {
      require(!token.empty(), name_, ": the vocabulary has an empty token");
      place(token, checked_id(convert<std::int64_t>(id, token, name_), token));
    }
    if (const auto text = get_or<std::string>(model, "unk_token", name_, ""); !text.empty()) {
      const auto at = vocab.find(text);
      require(at != vocab.end(), name_, ": the unk_token ", printable(text, 80), " is not in the vocabulary");
      for (unsigned b = 0; b < 256; ++b) {
        if (vocab.contains(alphabet_character(static_cast<unsigned char>(b)))) continue;
        require(!get_or<bool>(model, "fuse_unk", name_, false), name_, ": model.fuse_unk is not supported");
        data_.unknown = at->get<std::int32_t>();
      }
    }
    data_.merges.reserve(merges.size());
    for (const json& m : merges) {
      if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) {
        data_.merges.emplace_back(m[0].get<std::string>(), m[1].get<std::string>());
        continue;
      }
      const std::string text = m.is_string() ? m.get<std::string>() : "";
      if (text.starts_with("#version")) continue;
      const auto blank = text.find(' ');
      if (blank == 0 || blank == text.npos || blank + 1 == text.size() ||
          text.find(' ', blank + 1) != text.npos)
        refuse("the merge", m);
      data_.merges.emplace_back(text.substr(0, blank), text.substr(blank + 1));
    }
  }

  void read_added_tokens() {
    const json* added = part("added_tokens");
    if (!added) return;
    if (!added->is_array()) refuse("added_tokens", *added);
    std::unordered_map<std::string_view, std::int32_t> ids;
    for (const auto& [token, id] : member(member(root_, "model", name_), "vocab", name_).items())
      ids.emplace(token, id.get<std::int32_t>());
    for (const json& t : *added) {
      const auto text = get<std::string>(t, "content", name_);
      require(!text.empty(), name_, ": an added token is empty");
      for (const char* key : {"lstrip", "rstrip", "single_word"})
        require(!get_or<bool>(t, key, name_, false), name_, ": ", key, " of the added token ",
                printable(text, 80), " is not supported");
      const auto id = checked_id(get<std::int64_t>(t, "id", name_), text);
      const auto [at, fresh] = ids.emplace(member(t, "content", name_).get_ref<const std::string&>(), id);
      require(at->second == id, name_, ": the token ", printable(text, 80), " has the ids ", at->second,
              " and ", id);
      place(text, id);
      data_.specials.push_back(
          {id, text, get_or<bool>(t, "special", name_, false), get_or<bool>(t, "normalized", name_, false)});
    }
  }

  void read_normalizer() {
    if (const json* n = part("normalizer")) read_normalizer(*n);
  }
  void read_normalizer(const json& n) {
    const auto type = type_of(n);
    if (type == "NFC") {
      data_.nfc = true;
    } else if (type == "Sequence" && n.contains("normalizers") && n["normalizers"].is_array()) {
      for (const json& step : n["normalizers"]) {
        if (type_of(step) != "NFC") refuse("the normalizer", step);
        data_.nfc = true;
      }
    } else {
      refuse("the normalizer", n);
    }
  }

  /// The last step: whether it has the expression of GPT-2 in it.
  bool byte_level_cuts(const json& step) const {
    if (type_of(step) != "ByteLevel" || get_or<bool>(step, "add_prefix_space", name_, true))
      refuse("the pre-tokenizer", step);
    return get_or<bool>(step, "use_regex", name_, true);
  }
  void read_pre_tokenizer() {
    const json* p = part("pre_tokenizer");
    require(p, name_, ": there is no pre_tokenizer");
    std::vector<const json*> steps;
    if (type_of(*p) == "Sequence" && p->contains("pretokenizers") && (*p)["pretokenizers"].is_array()) {
      for (const json& step : (*p)["pretokenizers"]) steps.push_back(&step);
    } else {
      steps.push_back(p);
    }
    if (steps.empty() || steps.size() > 2) refuse("the pre-tokenizer", *p);
    const bool cuts = byte_level_cuts(*steps.back());
    if (steps.size() == 1) {
      if (!cuts) refuse("the pre-tokenizer", *p);
      data_.pre = "gpt-2";
      return;
    }
    const json& first = *steps[0];
    const auto type = type_of(first);
    if (type == "Digits" && cuts && get_or<bool>(first, "individual_digits", name_, false)) {
      data_.pre = "smollm";
      return;
    }
    if (type != "Split" || cuts) refuse("the pre-tokenizer", *p);
    // The expressions leave no part of a text out, so that keeping the matches only is the same.
    const auto behavior = get_or<std::string>(first, "behavior", name_, "");
    const bool invert = get_or<bool>(first, "invert", name_, false);
    if (!(behavior == "Isolated" || (behavior == "Removed" && invert))) refuse("the pre-tokenizer", first);
    const json& pattern = member(first, "pattern", name_);
    if (!pattern.is_object() || !pattern.contains("Regex")) refuse("the pre-tokenizer", first);
    const auto expression = get<std::string>(pattern, "Regex", name_);
    for (const auto& known : pre_tokenizers) {
      if (known.hugging_face != expression) continue;
      data_.pre = known.name;
      return;
    }
    refuse("the pre-tokenizer's expression", pattern["Regex"]);
  }

  void read_decoder() const {
    if (const json* d = part("decoder"); d && type_of(*d) != "ByteLevel") refuse("the decoder", *d);
  }

  void read_post_processor() {
    const json* p = part("post_processor");
    if (!p) return;
    if (type_of(*p) == "Sequence" && p->contains("processors") && (*p)["processors"].is_array()) {
      for (const json& step : (*p)["processors"]) read_post_processor(step);
    } else {
      read_post_processor(*p);
    }
  }
  /// ByteLevel only moves offsets; a template may put one token before the text.
  void read_post_processor(const json& p) {
    const auto type = type_of(p);
    if (type == "ByteLevel") return;
    if (type != "TemplateProcessing" || !p.contains("single") || !p["single"].is_array())
      refuse("the post-processor", p);
    const json& single = p["single"];
    const auto has = [](const json& step, const char* key) { return step.is_object() && step.contains(key); };
    const bool bos = single.size() == 2 && has(single[0], "SpecialToken") && has(single[1], "Sequence");
    if (!bos && !(single.size() == 1 && has(single[0], "Sequence"))) refuse("the post-processor", p);
    if (!bos) return;
    const auto text = get<std::string>(single[0]["SpecialToken"], "id", name_);
    for (const auto& s : data_.specials)
      if (s.text == text) data_.bos = s.id;
    require(data_.bos >= 0, name_, ": the post-processor's token ", printable(text, 80),
            " is no special token");
    data_.add_bos = true;
  }

  const json& root_;
  std::string_view name_;
  tokenizer_data data_;
  std::int64_t count_ = 0, most_ = 0;
};

/// bos, eos and chat template of a tokenizer_config.json.
inline void read_tokenizer_config(const json& root, std::string_view name, tokenizer_data& d) {
  const auto token = [&](const char* key, std::int32_t& id) {
    if (!root.is_object() || !root.contains(key) || root[key].is_null()) return;
    const json& value = root[key];
    const auto text =
        value.is_object() ? get<std::string>(value, "content", name) : convert<std::string>(value, key, name);
    const auto at = std::find(d.tokens.begin(), d.tokens.end(), text);
    require(!text.empty() && at != d.tokens.end(), name, ": the ", key, " ", printable(text, 80),
            " is not in the vocabulary");
    id = static_cast<std::int32_t>(at - d.tokens.begin());
  };
  token("bos_token", d.bos);
  token("eos_token", d.eos);
  if (!root.is_object() || !root.contains("chat_template")) return;
  const json& chat = root["chat_template"];
  if (chat.is_string()) d.chat_template = chat.get<std::string>();
  if (chat.is_array())
    for (const json& one : chat)
      if (get_or<std::string>(one, "name", name, "") == "default")
        d.chat_template = get<std::string>(one, "template", name);
}

}  // namespace detail

/// The tokenizer in the text of a Hugging Face tokenizer.json. Truncation and padding, which belong to a batch,
/// are not read. Throws `error` that begins with `name` and names what is not of this family.
inline tokenizer_data parse_tokenizer_json(std::string_view text, std::string_view name) {
  const json root = parse_json(text, name);
  return detail::tokenizer_json_reader(root, name).read();
}

/// The tokenizer that a path holds: the keys of a GGUF file, or the tokenizer.json of a folder or of its own
/// (its name ends in .json), with what tokenizer_config.json, generation_config.json and chat_template.jinja
/// beside it say about bos, eos and chat template.
inline tokenizer_data read_tokenizer(const std::filesystem::path& path) {
  const bool folder = std::filesystem::is_directory(path);
  if (!folder && path.extension() != ".json") return read_tokenizer(gguf_file(path));
  const auto file = folder ? path / "tokenizer.json" : path;
  tokenizer_data d = [&] {
    const mapped_file mapped(file);
    return parse_tokenizer_json(mapped.text(), mapped.path());
  }();
  const auto beside = [&](const char* name) { return file.parent_path() / name; };
  if (const auto config = beside("tokenizer_config.json"); std::filesystem::exists(config))
    detail::read_tokenizer_config(read_json_file(config), config.string(), d);
  if (const auto config = beside("generation_config.json"); std::filesystem::exists(config)) {
    const json root = read_json_file(config);
    const auto name = config.string();
    if (root.is_object() && root.contains("eos_token_id") && !root["eos_token_id"].is_null()) {
      const json& eos = root["eos_token_id"];
      const auto ids = eos.is_array() ? get<std::vector<std::int32_t>>(root, "eos_token_id", name)
                                      : std::vector{get<std::int32_t>(root, "eos_token_id", name)};
      for (const auto id : ids) {
        require(id >= 0 && id < static_cast<std::int64_t>(d.tokens.size()), name, ": eos_token_id ", id,
                ", the vocabulary has ", d.tokens.size());
        d.end_of_text.push_back(id);
      }
    }
  }
  if (const auto chat = beside("chat_template.jinja"); std::filesystem::exists(chat) && d.chat_template.empty())
    d.chat_template = mapped_file(chat).text();
  detail::collect_ends(d);
  return d;
}

/// The text of a tokenizer.json with which Hugging Face's tokenizers gives the same ids.
inline std::string tokenizer_json(const tokenizer_data& d) {
  const auto* pre = detail::find_pre_tokenizer(d.pre);
  require(pre, d.name, ": the pre-tokenizer ", detail::printable(d.pre, 60), " is not supported");
  const auto quoted = [](std::string_view text) {
    return json(std::string(text)).dump(-1, ' ', false, json::error_handler_t::replace);
  };
  const auto truth = [](bool b) { return b ? "true" : "false"; };
  std::string out = R"({
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [)";
  std::vector<special_token> specials = d.specials;
  std::sort(specials.begin(), specials.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  const char* comma = "";
  for (const auto& s : specials) {
    out += comma;
    out += "\n    {\"id\": " + std::to_string(s.id) + ", \"content\": " + quoted(s.text) +
           ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": " +
           truth(s.normalized) + ", \"special\": " + truth(s.control) + "}";
    comma = ",";
  }
  out += "\n  ],\n  \"normalizer\": ";
  out += d.nfc ? R"({"type": "NFC"})" : "null";
  const auto byte_level = [&](bool use_regex) {
    return std::string(
               R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": )") +
           truth(use_regex) + "}";
  };
  out += ",\n  \"pre_tokenizer\": ";
  if (d.pre == "gpt-2") {
    out += byte_level(true);
  } else if (d.pre == "smollm") {
    out += R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, )" +
           byte_level(true) + "]}";
  } else {
    out += R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": )" +
           quoted(pre->hugging_face) + R"(}, "behavior": "Isolated", "invert": false}, )" + byte_level(false) +
           "]}";
  }
  out += ",\n  \"post_processor\": ";
  if (d.add_bos && d.bos >= 0) {
    const std::string bos = quoted(d.tokens.at(static_cast<std::size_t>(d.bos)));
    const std::string before = R"({"SpecialToken": {"id": )" + bos + R"(, "type_id": 0}})";
    const std::string a = R"({"Sequence": {"id": "A", "type_id": 0}})",
                      b = R"({"Sequence": {"id": "B", "type_id": 1}})";
    out += R"({"type": "TemplateProcessing", "single": [)" + before + ", " + a + R"(], "pair": [)" + before +
           ", " + a + ", " + R"({"SpecialToken": {"id": )" + bos + R"(, "type_id": 1}})" + ", " + b +
           R"(], "special_tokens": {)" + bos + R"(: {"id": )" + bos + R"(, "ids": [)" + std::to_string(d.bos) +
           R"(], "tokens": [)" + bos + "]}}}";
  } else {
    out += byte_level(true);
  }
  out += ",\n  \"decoder\": " + byte_level(true);
  out += ",\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": ";
  out += d.unknown >= 0 ? quoted(d.tokens.at(static_cast<std::size_t>(d.unknown))) : "null";
  out +=
      ",\n    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,"
      "\n    \"byte_fallback\": false,\n    \"ignore_merges\": ";
  out += truth(d.ignore_merges);
  out += ",\n    \"vocab\": {";
  comma = "";
  for (std::size_t i = 0; i < d.tokens.size(); ++i) {
    if (d.tokens[i].empty()) continue;
    out += comma;
    out += "\n      " + quoted(d.tokens[i]) + ": " + std::to_string(i);
    comma = ",";
  }
  out += "\n    },\n    \"merges\": [";
  comma = "";
  // The older spelling, which every release reads, unless a token holds a blank.
  const bool blanks = std::any_of(d.merges.begin(), d.merges.end(), [](const auto& m) {
    return m.first.find(' ') != std::string::npos || m.second.find(' ') != std::string::npos ||
           m.first.starts_with("#version");
  });
  for (const auto& [left, right] : d.merges) {
    out += comma;
    out += "\n      ";
    out += blanks ? "[" + quoted(left) + ", " + quoted(right) + "]" : quoted(left + " " + right);
    comma = ",";
  }
  out += "\n    ]\n  }\n}\n";
  return out;
}

/// The text of a tokenizer_config.json: bos, eos and chat template.
inline std::string tokenizer_config_json(const tokenizer_data& d) {
  json root = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const auto token = [&](const char* key, std::int32_t id) {
    if (id >= 0 && !d.tokens.at(static_cast<std::size_t>(id)).empty())
      root[key] = d.tokens[static_cast<std::size_t>(id)];
  };
  token("bos_token", d.bos);
  token("eos_token", d.eos);
  if (!d.chat_template.empty()) root["chat_template"] = d.chat_template;
  return root.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

/// Writes tokenizer.json and tokenizer_config.json into a folder that exists.
inline void write_tokenizer(const std::filesystem::path& folder, const tokenizer_data& d) {
  write_text_atomically(folder / "tokenizer.json", tokenizer_json(d));
  write_text_atomically(folder / "tokenizer_config.json", tokenizer_config_json(d));
}

}  // namespace distil_xlstm::io
