// Bytes that grow, and what UTF-8 and base64 are.

#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

namespace accelerator {

// Bytes that grow; `ok` is false from the first allocation on that failed. Nothing throws here, so no std::string.
class Bytes {
  public:
    Bytes() = default;
    Bytes(const Bytes&) = delete;
    Bytes(Bytes&&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    Bytes& operator=(Bytes&&) = delete;
    ~Bytes() { std::free(data_); }

    void clear() {
        std::free(data_);
        data_ = nullptr;
        size_ = capacity_ = 0;
    }
    void swap(Bytes& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(capacity_, other.capacity_);
    }

    [[nodiscard]] const char* data() const { return data_; }
    [[nodiscard]] size_t size() const { return size_; }
    [[nodiscard]] bool ok() const { return ok_; }

    // Makes room for `more` bytes and returns where they begin; `used` says how many were written there.
    char* room(size_t more) {
        if (capacity_ - size_ < more && !grow(more)) return nullptr;
        return data_ + size_;
    }
    void used(size_t more) { size_ += more; }
    // Ends what was written into `room` at `end`.
    void end_at(const char* end) { size_ = static_cast<size_t>(end - data_); }

    void add(std::string_view text) {
        if (char* const start = room(text.size())) {
            if (!text.empty()) std::memcpy(start, text.data(), text.size());
            size_ += text.size();
        }
    }
    void add(char character) {
        if (char* const start = room(1)) {
            *start = character;
            ++size_;
        }
    }
    // Adds a value as the bytes that it has in memory.
    template <typename T>
    void add_bytes_of(const T& value) {
        if (char* const start = room(sizeof value)) {
            std::memcpy(start, &value, sizeof value);
            size_ += sizeof value;
        }
    }

  private:
    bool grow(size_t more) {
        const size_t wanted = capacity_ * 2 > size_ + more ? capacity_ * 2 : size_ + more + 1024;
        void* const moved = ok_ ? std::realloc(data_, wanted) : nullptr;
        if (!moved) {
            ok_ = false;
            return false;
        }
        data_ = static_cast<char*>(moved);
        capacity_ = wanted;
        return true;
    }

    char* data_ = nullptr;
    size_t size_ = 0, capacity_ = 0;
    bool ok_ = true;
};

// The size of the character of UTF-8 that begins here, 0 where none does. A zero follows the text, so it reads no further.
inline int utf8_size(const char* text) {
    const auto* at = reinterpret_cast<const unsigned char*>(text);
    const auto follows = [](unsigned char byte) { return (byte & 0xc0) == 0x80; };
    if (at[0] < 0x80) return 1;
    if (at[0] < 0xc2) return 0;
    if (!follows(at[1])) return 0;
    if (at[0] < 0xe0) return 2;
    if (!follows(at[2])) return 0;
    if (at[0] < 0xf0) return (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] >= 0xa0) ? 0 : 3;
    if (at[0] > 0xf4 || !follows(at[3])) return 0;
    return (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] >= 0x90) ? 0 : 4;
}

constexpr std::string_view BASE64_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr uint8_t NOT_BASE64 = 64;

// The value of each character of the alphabet.
constexpr std::array<uint8_t, 256> BASE64_VALUES = [] {
    std::array<uint8_t, 256> values{};
    for (auto& value : values) value = NOT_BASE64;
    for (uint8_t index = 0; index < 64; ++index) values[static_cast<unsigned char>(BASE64_ALPHABET[index])] = index;
    return values;
}();

}  // namespace accelerator
