// The classes with the highest scores: `top_k`, and the Open Inference Protocol's classification.

#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <string_view>

#include "../bytes.h"
#include "../elements.h"
#include "../model.h"
#include "../result.h"
#include "../write.h"

namespace accelerator {

// The names of the classes: the strings of an output, or the labels of the model.
class Names {
  public:
    // Looks for them; declined are those of an output that are no text.
    Declined find(const Model& model, const Results& results, size_t output_count, int64_t rows, int64_t classes) {
        for (size_t index = 0; index < output_count; ++index) {
            const Result& result = results[index];
            const bool by_row = result.rank == 2 && result.dims[0] == rows && result.dims[1] == classes;
            const bool of_all = result.rank == 1 && result.dims[0] == classes;
            if (result.type() != Type::string || !(by_row || of_all)) continue;
            output_ = &result;
            row_size_ = by_row ? static_cast<size_t>(classes) : 0;
            return result.all_text ? Declined() : Decline::result;
        }
        if (model.label_count == static_cast<size_t>(classes)) labels_ = model.labels.get();
        return {};
    }
    [[nodiscard]] std::optional<std::string_view> of(size_t row, size_t index) const {
        if (output_) return output_->string_at(row * row_size_ + index);
        return labels_ ? std::optional(labels_[index]) : std::nullopt;
    }

  private:
    const Result* output_ = nullptr;
    const std::string_view* labels_ = nullptr;
    size_t row_size_ = 0;  // 0: every row has the same names
};

// Scores of a shape of [..., classes], of which the highest of each row are written.
class Ranked {
  public:
    Ranked(const Result& scores, int64_t most) : scores_(scores) {
        const auto classes = static_cast<size_t>(scores.dims[scores.rank - 1]);
        classes_ = classes;
        count_ = std::min(static_cast<size_t>(most), classes);
        rows_ = 1;
        for (size_t axis = 0; axis + 1 < scores.rank; ++axis) rows_ *= static_cast<size_t>(scores.dims[axis]);
    }

    Declined prepare(const Model& model, const Results& results, size_t output_count) {
        positions_.reset(new (std::nothrow) size_t[classes_ + 1]);
        if (!positions_) return Decline::memory;
        return names_.find(model, results, output_count, static_cast<int64_t>(rows_), static_cast<int64_t>(classes_));
    }
    [[nodiscard]] size_t rows() const { return rows_; }
    [[nodiscard]] size_t count() const { return count_; }  // of the classes that are written of a row

    // Adds [{"name":"3","index":3,"score":0.9}, ...].
    void add_classes(Bytes& json, size_t row) {
        const auto add = [&](size_t index, auto score) {
            json.add(R"({)");
            if (const auto name = names_.of(row, index)) {
                json.add(R"("name":)");
                add_text(json, *name);
                json.add(',');
            }
            json.add(R"("index":)");
            add_size(json, static_cast<int64_t>(index));
            json.add(R"(,"score":)");
            add_number(json, score, Style::orjson, true);
            json.add('}');
        };
        json.add('[');
        bool is_first = true;
        each(row, [&](size_t index, auto score) {
            if (!is_first) json.add(',');
            is_first = false;
            add(index, score);
        });
        json.add(']');
    }
    // Calls the function with each text "0.900000:3:name" of a row.
    template <typename Function>
    void each_text(size_t row, Function function) {
        each(row, [&](size_t index, auto score) {
            Bytes text;
            const auto value = static_cast<double>(widened(score));
            if (std::isfinite(value)) {
                std::array<char, 400> digits;  // the largest double has 309 before its point
                const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value, std::chars_format::fixed, 6);
                text.add({digits.data(), static_cast<size_t>(end.ptr - digits.data())});
            } else {
                text.add(std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
            }
            text.add(':');
            add_size(text, static_cast<int64_t>(index));
            if (const auto name = names_.of(row, index)) {
                text.add(':');
                text.add(*name);
            }
            function(std::string_view(text.data(), text.size()));
        });
    }

  private:
    // Calls the function with the position and the value of the highest scores of a row, best first. NaN comes last, and
    // equal ones stay in order.
    template <typename Function>
    void each(size_t row, Function function) {
        for_type(scores_.type(), [&](auto element) {
            using T = decltype(element);
            if constexpr (!std::is_same_v<T, Part> && !std::is_same_v<T, Flag>) {
                const char* const scores = scores_.data() + row * classes_ * sizeof(T);
                const auto key = [scores](size_t index) {
                    const auto score = static_cast<double>(widened(element_at<T>(scores + index * sizeof(T))));
                    return std::isnan(score) ? -std::numeric_limits<double>::infinity() : score;
                };
                size_t* const first = positions_.get();
                for (size_t index = 0; index < classes_; ++index) first[index] = index;
                std::partial_sort(first, first + count_, first + classes_, [key](size_t left, size_t right) {
                    const double a = key(left), b = key(right);
                    return a > b || (a == b && left < right);
                });
                for (size_t place = 0; place < count_; ++place)
                    function(first[place], element_at<T>(scores + first[place] * sizeof(T)));
            }
        });
    }

    const Result& scores_;
    Names names_;
    std::unique_ptr<size_t[]> positions_;
    size_t classes_, count_, rows_;
};

}  // namespace accelerator
