#include "io/json.hpp"

#include <cstdio>
#include <limits>

namespace gradcore::json {

namespace {

bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

void append_utf8(unsigned code, std::string *to) {
  if (code < 0x80) {
    *to += char(code);
  } else if (code < 0x800) {
    *to += char(0xC0 | code >> 6);
    *to += char(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    *to += char(0xE0 | code >> 12);
    *to += char(0x80 | (code >> 6 & 0x3F));
    *to += char(0x80 | (code & 0x3F));
  } else {
    *to += char(0xF0 | code >> 18);
    *to += char(0x80 | (code >> 12 & 0x3F));
    *to += char(0x80 | (code >> 6 & 0x3F));
    *to += char(0x80 | (code & 0x3F));
  }
}

}  // namespace

void Reader::skip_space() noexcept {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
    at_++;
}

gradcore_status Reader::unexpected(const char *expected) const noexcept {
  if (at_ >= text_.size())
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected JSON text with %s at byte %zu, got its end", name_, expected,
                at_);
  return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected JSON text with %s at byte %zu, got '%s'", name_, expected, at_,
              Excerpt(text_.substr(at_, 16)).text());
}

bool Reader::take(std::string_view token) noexcept {
  skip_space();
  if (text_.substr(at_, token.size()) != token) return false;
  at_ += token.size();
  return true;
}

gradcore_status Reader::expect(std::string_view token) noexcept {
  if (take(token)) return GRADCORE_OK;
  char quoted_token[16];
  std::snprintf(quoted_token, sizeof quoted_token, "'%.*s'", int(token.size()), token.data());
  return unexpected(quoted_token);
}

gradcore_status Reader::end() noexcept {
  skip_space();
  return at_ == text_.size() ? GRADCORE_OK : unexpected("nothing more");
}

gradcore_status Reader::boolean(int32_t *value) noexcept {
  if (take("true")) return *value = 1, GRADCORE_OK;
  if (take("false")) return *value = 0, GRADCORE_OK;
  return unexpected("true or false");
}

// -?(0|[1-9][0-9]*), or nothing. A fraction or an exponent is left in the text, where the caller refuses it.
std::string_view Reader::number_text() noexcept {
  skip_space();
  std::size_t end = at_;
  if (end < text_.size() && text_[end] == '-') end++;
  const std::size_t first = end;
  while (end < text_.size() && is_digit(text_[end])) end++;
  const bool leading_zero = end - first > 1 && text_[first] == '0';
  if (end == first || leading_zero) return {};
  const std::string_view text = text_.substr(at_, end - at_);
  at_ = end;
  return text;
}

gradcore_status Reader::integer(int64_t *value) noexcept {
  const std::size_t begin = at_;
  const std::string_view text = number_text();
  const bool negative = !text.empty() && text[0] == '-';
  uint64_t magnitude = 0;
  bool ok = !text.empty();
  for (std::size_t i = negative; ok && i < text.size(); i++) {
    ok = magnitude <= (uint64_t(std::numeric_limits<int64_t>::max()) - 9) / 10;
    magnitude = magnitude * 10 + uint64_t(text[i] - '0');
  }
  if (!ok) {
    at_ = begin;
    skip_space();
    return unexpected("a whole number of at most 18 digits");
  }
  *value = negative ? -int64_t(magnitude) : int64_t(magnitude);
  return GRADCORE_OK;
}

gradcore_status Reader::digits(std::string *value, std::size_t most) {
  const std::size_t begin = at_;
  const std::string_view text = number_text();
  if (text.empty() || text[0] == '-' || text.size() > most) {
    at_ = begin;
    skip_space();
    return unexpected("a whole number >= 0");
  }
  *value = text;
  return GRADCORE_OK;
}

// Length in bytes of the UTF-8 character at at_; 0 if it is not well-formed (Unicode 15, table 3-7).
std::size_t Reader::utf8_length() const noexcept {
  const auto byte = [&](std::size_t i) {
    return at_ + i < text_.size() ? unsigned(static_cast<unsigned char>(text_[at_ + i])) : 0u;
  };
  const auto follows = [&](std::size_t i, unsigned low = 0x80, unsigned high = 0xBF) {
    return byte(i) >= low && byte(i) <= high;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool second = follows(1, first == 0xE0 ? 0xA0 : 0x80, first == 0xED ? 0x9F : 0xBF);
    return second && follows(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool second = follows(1, first == 0xF0 ? 0x90 : 0x80, first == 0xF4 ? 0x8F : 0xBF);
    return second && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

bool Reader::hex4(unsigned *unit) noexcept {
  if (text_.size() - at_ < 4) return false;
  *unit = 0;
  for (std::size_t i = 0; i < 4; i++) {
    const char c = text_[at_ + i], lower = char(c | 0x20);
    const bool letter = lower >= 'a' && lower <= 'f';
    if (!is_digit(c) && !letter) return false;
    *unit = *unit << 4 | unsigned(letter ? lower - 'a' + 10 : c - '0');
  }
  at_ += 4;
  return true;
}

// Reads an escape sequence, after its backslash.
gradcore_status Reader::escape(std::string *value) {
  constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
  const char c = at_ < text_.size() ? text_[at_] : '\0';
  if (const std::size_t i = kNames.find(c); c && i != std::string_view::npos) {
    at_++;
    *value += kMeanings[i];
    return GRADCORE_OK;
  }
  unsigned code = 0, low = 0;
  if (c != 'u') return unexpected("an escape sequence");
  at_++;
  if (!hex4(&code)) return unexpected("four hexadecimal digits");
  if (code >= 0xD800 && code <= 0xDFFF) {  // half of a surrogate pair
    const bool pair =
        code < 0xDC00 && text_.substr(at_, 2) == "\\u" && (at_ += 2, hex4(&low)) && low >= 0xDC00 && low <= 0xDFFF;
    if (!pair) return unexpected("the other half of a surrogate pair");
    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
  }
  append_utf8(code, value);
  return GRADCORE_OK;
}

gradcore_status Reader::string(std::string *value) {
  value->clear();
  skip_space();
  if (at_ >= text_.size() || text_[at_] != '"') return unexpected("a string");
  at_++;
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (c == '"') return at_++, GRADCORE_OK;
    if (c == '\\') {
      at_++;
      GRADCORE_TRY(escape(value));
      continue;
    }
    const std::size_t length = static_cast<unsigned char>(c) < 0x20 ? 0 : utf8_length();
    if (length == 0) return unexpected("UTF-8 text");
    value->append(text_, at_, length);
    at_ += length;
  }
  return unexpected("the end of a string");
}

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + '"';
}

Excerpt::Excerpt(std::string_view text) noexcept {
  constexpr std::size_t kLength = sizeof text_ - 4;
  std::size_t length = 0;
  for (; length < kLength && length < text.size(); length++) {
    const char c = text[length];
    text_[length] = c >= 0x20 && c < 0x7F ? c : '?';
  }
  std::snprintf(text_ + length, 4, "%s", length < text.size() ? "..." : "");
}

}  // namespace gradcore::json
