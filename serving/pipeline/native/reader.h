// JSON, read strictly. What is not taken gives false or nothing, and the place of the reader is then of no use.

#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <type_traits>

#include "bytes.h"

namespace accelerator {

// Not inside the function that reads it: the compiler would copy it onto the stack for every number.
constexpr std::array POWERS = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                               1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

// No step asks for the end: the text belongs to a bytes object, which ends with a zero, and after a whole text has been
// read, `at_end` says whether that was its end.
class Reader {
  public:
    explicit Reader(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

    // Skips white space and takes `wanted` if it is next.
    bool take(char wanted) {
        skip();
        if (*at_ != wanted) return false;
        ++at_;
        return true;
    }
    bool next_is(char wanted) {
        skip();
        return *at_ == wanted;
    }
    [[nodiscard]] bool is_at(const Reader& other) const { return at_ == other.at_; }
    // What follows the text may look like white space.
    bool at_end() {
        while (at_ < end_ && is_space(*at_)) ++at_;
        return at_ == end_;
    }

    std::optional<bool> flag() {
        skip();
        const bool value = *at_ == 't';
        return word(value ? "true" : "false") ? std::optional(value) : std::nullopt;
    }
    bool null() {
        skip();
        return word("null");
    }

    // A string without escapes, of ASCII: of others it would have to be checked whether they are UTF-8.
    std::optional<std::string_view> text() {
        if (!take('"')) return std::nullopt;
        const char* const start = at_;
        for (; *at_ != '"'; ++at_)
            if (*at_ == '\\' || static_cast<signed char>(*at_) < 0x20) return std::nullopt;
        return std::string_view(start, static_cast<size_t>(at_++ - start));
    }
    // The key of a member, and the colon behind it.
    std::optional<std::string_view> key() {
        const auto name = text();
        return name && take(':') ? name : std::nullopt;
    }

    // A string of ASCII without escapes, a whole number, true, false or null, as it is written: the writer of answers writes
    // it alike.
    std::optional<std::string_view> scalar() {
        skip();
        const char* const start = at_;
        const bool is_word = *start == 't' || *start == 'f';
        const bool fits = *start == '"' ? text().has_value() : is_word ? flag().has_value() : null() || is_plain_whole();
        return fits ? std::optional(std::string_view(start, static_cast<size_t>(at_ - start))) : std::nullopt;
    }
    // Goes to the end of a value. Its brackets and strings alone are looked at, so it may be no JSON.
    bool pass() {
        skip();
        if (*at_ == '"') return pass_string();
        if (*at_ != '[' && *at_ != '{') {
            const char* const start = at_;
            while (*at_ && !std::strchr(",]}: \t\r\n\"[{", *at_)) ++at_;
            return at_ != start;
        }
        int64_t depth = 0;
        do {
            const char character = *at_;
            if (!character) return false;
            if (character == '"') {
                if (!pass_string()) return false;
                continue;
            }
            if (character == '[' || character == '{') ++depth;
            if (character == ']' || character == '}') --depth;
            ++at_;
        } while (depth);
        return true;
    }

    // Appends a string's bytes: text, or {"b64": "..."}.
    bool string(Bytes& bytes) {
        skip();
        if (*at_ == '"') return unescaped(bytes);
        if (!take('{') || key() != "b64") return false;
        const auto base64 = text();
        return base64 && decoded(*base64, bytes) && take('}');
    }
    // Says whether an object of base64 is next, and no object of named values.
    [[nodiscard]] bool next_is_base64() const {
        Reader ahead = *this;
        return ahead.take('{') && ahead.key() == "b64" && ahead.next_is('"');
    }

    // A number that fits the type; a whole one that is written as 3.0 or 3e0 is an integer too.
    template <typename T>
    [[gnu::always_inline]] std::optional<T> number() {
        skip();
        Decimal decimal;
        if (!scan(decimal)) return std::nullopt;
        if (decimal.whole)  // of more digits, some are beyond 64 bits
            return decimal.count <= 18 ? stored<T>(decimal.negative, decimal.mantissa) : std::nullopt;
        double value;
        if (!rounded(decimal, value)) return std::nullopt;
        if constexpr (std::is_floating_point_v<T>) {
            const auto narrow = static_cast<T>(value);
            return std::isfinite(narrow) ? std::optional<T>(narrow) : std::nullopt;
        } else {
            return stored_whole<T>(value);
        }
    }

  private:
    // A number's parts: mantissa * 10 ** exponent; the mantissa is right for `count` <= 19 digits.
    struct Decimal {
        const char *start, *end;
        uint64_t mantissa;
        int64_t count, exponent;
        bool negative, whole;
    };

    void skip() {
        while (is_space(*at_)) ++at_;
    }
    bool word(std::string_view written) {
        if (std::strncmp(at_, written.data(), written.size()) != 0) return false;
        at_ += written.size();
        return true;
    }
    // A whole number that is written as the number that it is: not -0.
    bool is_plain_whole() {
        Decimal decimal;
        return scan(decimal) && decimal.whole && decimal.count <= 18 && (decimal.mantissa || !decimal.negative);
    }
    bool pass_string() {
        for (++at_; *at_ != '"'; ++at_) {
            if (!*at_ || (*at_ == '\\' && !*++at_)) return false;
        }
        ++at_;
        return true;
    }
    static bool is_space(char character) {
        return character == ' ' || character == '\n' || character == '\t' || character == '\r';
    }
    static bool is_digit(char character) { return character >= '0' && character <= '9'; }

    [[gnu::always_inline]] bool scan(Decimal& decimal) {
        const char* at = decimal.start = at_;
        decimal.negative = *at == '-';
        if (decimal.negative) ++at;
        const char* const digits = at;
        uint64_t mantissa = 0;
        while (is_digit(*at)) mantissa = mantissa * 10 + static_cast<uint64_t>(*at++ - '0');
        int64_t count = at - digits;
        if (count == 0 || (count > 1 && *digits == '0')) return false;
        decimal.exponent = 0;
        decimal.whole = true;
        if (*at == '.') {
            decimal.whole = false;
            const char* const decimals = ++at;
            while (is_digit(*at)) mantissa = mantissa * 10 + static_cast<uint64_t>(*at++ - '0');
            if (at == decimals) return false;
            count += at - decimals;
            decimal.exponent = decimals - at;
        }
        if (*at == 'e' || *at == 'E') {
            decimal.whole = false;
            if (!power(++at, decimal.exponent)) return false;
        }
        decimal.mantissa = mantissa;
        decimal.count = count;
        decimal.end = at_ = at;
        return true;
    }

    [[gnu::always_inline]] static bool power(const char*& at, int64_t& exponent) {
        const bool down = *at == '-';
        if (down || *at == '+') ++at;
        int64_t power = 0;
        const char* const first = at;
        for (; is_digit(*at); ++at)
            if (power < 100000) power = power * 10 + (*at - '0');
        exponent += down ? -power : power;
        return at != first;
    }

    // The double next to a number.
    [[gnu::always_inline]] static bool rounded(const Decimal& decimal, double& value) {
        const int64_t exponent = decimal.exponent;
        // Both numbers are doubles themselves then, and one operation rounds once - Clinger 1990.
        if (decimal.count <= 19 && decimal.mantissa <= uint64_t{1} << 53 && exponent >= -22 && exponent <= 22) {
            value = static_cast<double>(decimal.mantissa);
            value = exponent < 0 ? value / POWERS[static_cast<size_t>(-exponent)]
                                 : value * POWERS[static_cast<size_t>(exponent)];
            if (decimal.negative) value = -value;
            return true;
        }
        const auto read = std::from_chars(decimal.start, decimal.end, value);
        return read.ec == std::errc() && read.ptr == decimal.end;
    }

    template <typename T>
    static std::optional<T> stored(bool negative, uint64_t magnitude) {
        const int64_t value = negative ? -static_cast<int64_t>(magnitude) : static_cast<int64_t>(magnitude);
        if constexpr (std::is_floating_point_v<T>) {
            return static_cast<T>(static_cast<double>(value));  // in two steps, as serving/ does
        } else if constexpr (std::is_unsigned_v<T>) {
            if (value < 0 || magnitude > std::numeric_limits<T>::max()) return std::nullopt;
            return static_cast<T>(magnitude);
        } else {
            if (value < std::numeric_limits<T>::min() || value > std::numeric_limits<T>::max()) return std::nullopt;
            return static_cast<T>(value);
        }
    }

    // 3.0 is an integer: protobuf's JSON, as Vertex AI sends it, has doubles alone.
    template <typename T>
    static std::optional<T> stored_whole(double value) {
        const double past = std::ldexp(1.0, std::numeric_limits<T>::digits);  // the type's largest value, and one more
        const double least = std::is_signed_v<T> ? -past : 0.0;
        if (std::trunc(value) != value || value >= past || value < least) return std::nullopt;
        return static_cast<T>(value);
    }

    bool unescaped(Bytes& bytes) {
        const char* start = ++at_;
        while (true) {
            const auto byte = static_cast<unsigned char>(*at_);
            if (byte == '"' || byte == '\\') {
                bytes.add({start, static_cast<size_t>(at_ - start)});
                ++at_;
                if (byte == '"') return bytes.ok();
                if (!escape(bytes)) return false;
                start = at_;
            } else if (byte < 0x20) {
                return false;
            } else if (byte < 0x80) {
                ++at_;
            } else {
                const int size = utf8_size(at_);
                if (!size) return false;
                at_ += size;
            }
        }
    }

    bool escape(Bytes& bytes) {
        switch (*at_++) {
            case '"': bytes.add('"'); return true;
            case '\\': bytes.add('\\'); return true;
            case '/': bytes.add('/'); return true;
            case 'b': bytes.add('\b'); return true;
            case 'f': bytes.add('\f'); return true;
            case 'n': bytes.add('\n'); return true;
            case 'r': bytes.add('\r'); return true;
            case 't': bytes.add('\t'); return true;
            case 'u': break;
            default: return false;
        }
        auto code = hex();
        if (!code || (*code >= 0xdc00 && *code < 0xe000)) return false;
        if (*code >= 0xd800 && *code < 0xdc00) {  // half a pair, and the other half
            if (*at_ != '\\' || at_[1] != 'u') return false;
            at_ += 2;
            const auto low = hex();
            if (!low || *low < 0xdc00 || *low >= 0xe000) return false;
            code = 0x10000 + ((*code - 0xd800) << 10) + (*low - 0xdc00);
        }
        add_character(bytes, *code);
        return true;
    }

    static void add_character(Bytes& bytes, uint32_t code) {
        const auto add = [&](uint32_t byte) { bytes.add(static_cast<char>(byte)); };
        if (code < 0x80) return add(code);
        if (code < 0x800) {
            add(0xc0 | code >> 6);
        } else {
            if (code < 0x10000) {
                add(0xe0 | code >> 12);
            } else {
                add(0xf0 | code >> 18);
                add(0x80 | (code >> 12 & 0x3f));
            }
            add(0x80 | (code >> 6 & 0x3f));
        }
        add(0x80 | (code & 0x3f));
    }

    std::optional<uint32_t> hex() {
        uint32_t code = 0;
        for (int count = 0; count < 4; ++count, ++at_) {
            const char character = *at_;
            int digit = 0;
            if (is_digit(character))
                digit = character - '0';
            else if (character >= 'a' && character <= 'f')
                digit = character - 'a' + 10;
            else if (character >= 'A' && character <= 'F')
                digit = character - 'A' + 10;
            else
                return std::nullopt;
            code = code << 4 | static_cast<uint32_t>(digit);
        }
        return code;
    }

    // The standard alphabet with its padding; serving/ takes more.
    static bool decoded(std::string_view base64, Bytes& bytes) {
        if (base64.size() % 4) return false;
        size_t size = base64.size();
        while (size && base64.size() - size < 2 && base64[size - 1] == '=') --size;
        char* to = bytes.room(base64.size() / 4 * 3 + 1);
        if (!to) return false;
        uint32_t bits = 0;
        unsigned wrong = 0;
        for (size_t index = 0; index < size; ++index) {
            const uint8_t value = BASE64_VALUES[static_cast<unsigned char>(base64[index])];
            wrong |= value;
            bits = bits << 6 | value;
            if (index % 4) *to++ = static_cast<char>(bits >> (6 - index % 4 * 2) & 0xff);
        }
        bytes.end_at(to);
        return wrong < NOT_BASE64;
    }

    const char *at_, *end_;
};

}  // namespace accelerator
