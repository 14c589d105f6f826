// Text that stands somewhere, bytes that grow, and what UTF-8 and base64 are.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace accelerator {

struct Text {  // not ended by a zero
    const char* start = nullptr;
    size_t size = 0;

    bool is(const Text& other) const { return size == other.size && std::memcmp(start, other.start, size) == 0; }
    bool is(const char* other) const { return is(Text{other, std::strlen(other)}); }
};

// Bytes that grow; `ok` is false from the first allocation on that failed.
class Bytes {
  public:
    Bytes() = default;
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    ~Bytes() { std::free(data_); }

    void free() {
        std::free(data_);
        data_ = nullptr;
        size_ = capacity_ = 0;
    }
    void take(Bytes& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(capacity_, other.capacity_);
    }

    char* data() { return data_; }
    size_t size() const { return size_; }
    bool ok() const { return ok_; }

    // Makes room for `more` bytes and returns where they begin; `used` says how many were written there.
    char* room(size_t more) {
        if (capacity_ - size_ < more && !grow(more)) return nullptr;
        return data_ + size_;
    }
    void used(size_t more) { size_ += more; }

    void add(const char* start, size_t count) {
        if (char* place = room(count)) {
            std::memcpy(place, start, count);
            size_ += count;
        }
    }
    void add(const Text& text) { add(text.start, text.size); }
    void add(const char* text) { add(text, std::strlen(text)); }
    void add(char one) { add(&one, 1); }

  private:
    bool grow(size_t more) {
        size_t wanted = capacity_ * 2 > size_ + more ? capacity_ * 2 : size_ + more + 1024;
        void* moved = ok_ ? std::realloc(data_, wanted) : nullptr;
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

// The size of the character of UTF-8 that begins here, 0 where none does. A zero follows the last: so it reads no
// further.
int utf8(const char* text) {
    const auto* at = reinterpret_cast<const unsigned char*>(text);
    const auto follows = [](unsigned char one) { return (one & 0xc0) == 0x80; };
    if (at[0] < 0x80) return 1;
    if (at[0] < 0xc2) return 0;
    if (!follows(at[1])) return 0;
    if (at[0] < 0xe0) return 2;
    if (!follows(at[2])) return 0;
    if (at[0] < 0xf0) return (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] >= 0xa0) ? 0 : 3;
    if (at[0] > 0xf4 || !follows(at[3])) return 0;
    return (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] >= 0x90) ? 0 : 4;
}

constexpr char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

struct Base64 {
    uint8_t value[256];  // 64 and more: not of the alphabet

    constexpr Base64() : value() {
        for (auto& one : value) one = 64;
        for (uint8_t index = 0; index < 64; ++index) value[static_cast<unsigned char>(ALPHABET[index])] = index;
    }
    constexpr uint8_t operator[](unsigned char one) const { return value[one]; }
};
constexpr Base64 BASE64;

}  // namespace accelerator
