// How many pixels a picture has, by its header, as serving/savedmodel/images.py reads it.

#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace accelerator {

constexpr int MAX_BLOCKS = 4096;  // of a JPEG file before its frame

namespace headers {

inline bool begins(std::string_view data, std::string_view with) { return data.substr(0, with.size()) == with; }

// The big-endian number of so many bytes.
inline int64_t number(std::string_view data, size_t at, size_t bytes) {
    int64_t value = 0;
    for (size_t index = 0; index < bytes; ++index) value = value << 8 | static_cast<unsigned char>(data[at + index]);
    return value;
}

inline std::optional<int64_t> png(std::string_view data) {
    if (data.size() < 24) return 0;
    if (data.substr(12, 4) != "IHDR") return std::nullopt;
    const int64_t width = number(data, 16, 4), height = number(data, 20, 4);
    if (width >> 31 || height >> 31) return std::nullopt;
    return width * height;
}

inline std::optional<int64_t> jpeg(std::string_view data) {
    const auto is_fill = [&](size_t at) { return static_cast<unsigned char>(data[at]) == 0xff; };
    size_t at = 2;
    for (int block = 0; block < MAX_BLOCKS; ++block) {
        while (at < data.size() && !is_fill(at)) ++at;
        while (at < data.size() && is_fill(at)) ++at;
        if (at >= data.size()) return 0;
        const auto marker = static_cast<unsigned char>(data[at++]);
        if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) continue;  // no length behind it
        if (marker == 0xd9 || marker == 0xda) return 0;
        const bool is_frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
        if (is_frame) return data.size() - at < 7 ? 0 : number(data, at + 3, 2) * number(data, at + 5, 2);
        if (data.size() - at < 2) return 0;
        at += static_cast<size_t>(number(data, at, 2));
    }
    return std::nullopt;
}

}  // namespace headers

// Width times height; 0 where the data is no picture; nothing for a picture of a format that is read in Python alone.
inline std::optional<int64_t> pixels(std::string_view data) {
    using namespace std::string_view_literals;
    if (headers::begins(data, "\x89PNG\r\n\x1a\n"sv)) return headers::png(data);
    if (headers::begins(data, "\xff\xd8"sv)) return headers::jpeg(data);
    for (const auto other : {"\xff\x0a"sv, "\0\0\0\x0cJXL "sv, "GIF"sv, "BM"sv, "RIFF"sv})
        if (headers::begins(data, other)) return std::nullopt;
    return 0;
}

}  // namespace accelerator
