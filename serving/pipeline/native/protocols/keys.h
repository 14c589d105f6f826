// The keys of a request's rows, which come back beside their predictions and which the model does not see.

#pragma once

#include <cstdint>
#include <string_view>

#include "../bytes.h"
#include "../elements.h"
#include "../model.h"
#include "../reader.h"

namespace accelerator {

// Each is a scalar of the body, as it is written there.
class Keys {
  public:
    [[nodiscard]] bool any() const { return texts_.size() != 0; }
    [[nodiscard]] size_t count() const { return texts_.size() / sizeof(std::string_view); }

    // The key of a row, empty where it has none.
    [[nodiscard]] std::string_view of(size_t row) const {
        if (row >= count()) return {};
        return element_at<std::string_view>(texts_.data() + row * sizeof(std::string_view));
    }

    // Reads the key of a row; those of the rows before it that have none are empty.
    Declined read(Reader& json, size_t row) {
        if (count() > row) return Decline::input;  // the second
        const auto text = json.scalar();
        if (!text) return Decline::value;
        while (count() < row && texts_.ok()) texts_.add_bytes_of(std::string_view());
        texts_.add_bytes_of(*text);
        return texts_.ok() ? Declined() : Decline::memory;
    }
    // Reads a list of one key for each row.
    Declined read_list(Reader& json, int64_t most) {
        if (any() || !json.take('[')) return Decline::value;
        for (int64_t row = 0; row < most; ++row) {
            if (Declined declined = read(json, static_cast<size_t>(row))) return declined;
            if (!json.take(',')) return json.take(']') ? Declined() : Decline::json;
        }
        return Decline::limit;
    }
    void add_list(Bytes& json) const {
        for (size_t row = 0; row < count(); ++row) {
            json.add(row ? ',' : '[');
            json.add(of(row));
        }
        json.add(']');
    }
    void drop() { texts_.clear(); }

  private:
    Bytes texts_;
};

}  // namespace accelerator
