// Strict JSON (RFC 8259), read in the order that the caller expects: no tree, no recursion, no allocation whose size
// the text controls. The first deviation is reported with its position.
#ifndef GRADCORE_IO_JSON_HPP
#define GRADCORE_IO_JSON_HPP

#include <string>
#include <string_view>

#include "error.hpp"

namespace gradcore::json {

class Reader {
 public:
  // `name` starts every message. The text outlives the reader.
  Reader(const char *name, std::string_view text) noexcept : name_(name), text_(text) {}

  // Takes the next token if it is this one; skips white space before it.
  bool take(std::string_view token) noexcept;
  gradcore_status expect(std::string_view token) noexcept;

  // Values. Text is UTF-8 without escapes; numbers are integers.
  gradcore_status string(std::string *value);
  gradcore_status integer(int64_t *value) noexcept;
  gradcore_status digits(std::string *value, std::size_t most);  // >= 0
  gradcore_status boolean(int32_t *value) noexcept;
  gradcore_status end() noexcept;

  // member(key) is called for each and reads its value.
  template <class Member>
  gradcore_status object(Member &&member) {
    GRADCORE_TRY(expect("{"));
    if (take("}")) return GRADCORE_OK;
    std::string key;
    do {
      GRADCORE_TRY(string(&key));
      GRADCORE_TRY(expect(":"));
      GRADCORE_TRY(member(key));
    } while (take(","));
    return expect("}");
  }
  // element() is called for each and reads it.
  template <class Element>
  gradcore_status array(Element &&element) {
    GRADCORE_TRY(expect("["));
    if (take("]")) return GRADCORE_OK;
    do GRADCORE_TRY(element());
    while (take(","));
    return expect("]");
  }

 private:
  void skip_space() noexcept;
  std::string_view number_text() noexcept;
  gradcore_status escape(std::string *value);
  bool hex4(unsigned *unit) noexcept;
  std::size_t utf8_length() const noexcept;
  gradcore_status unexpected(const char *expected) const noexcept;

  const char *name_;
  std::string_view text_;
  std::size_t at_ = 0;
};

// Printable ASCII text as a JSON string with its quotes.
std::string quoted(std::string_view text);

// Text from a file, shortened and made safe for a message.
class Excerpt {
 public:
  explicit Excerpt(std::string_view text) noexcept;
  const char *text() const noexcept { return text_; }

 private:
  char text_[68];
};

}  // namespace gradcore::json

#endif
