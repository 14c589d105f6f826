// What is served, and why a request may be left to Python.

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "types.h"

namespace accelerator {

class Engine;

constexpr size_t MAX_RANK = 32, MAX_TENSORS = 16, MAX_SIGNATURES = 16, MAX_SIZES = 64;

// Why a request is declined. DECLINES has their names, in this order; docs/observing.md says what each of them means.
enum class Decline : uint8_t { json, member, signature, input, value, shape, limit, picture, binary, output, result, memory };

constexpr std::array DECLINES = {"json",  "member",  "signature", "input",  "value",  "shape",
                                 "limit", "picture", "binary",    "output", "result", "memory"};
static_assert(DECLINES.size() == static_cast<size_t>(Decline::memory) + 1);

// Nothing where the request goes on: `if (Declined declined = read(...)) return declined;`
using Declined = std::optional<Decline>;

using Dims = std::array<int64_t, MAX_RANK>;

struct Input {
    std::string_view name, datatype;  // what the Open Inference Protocol calls the type
    Type type;
    size_t rank;
    Dims dims;  // -1: any
};

struct Output {
    std::string_view name, key, datatype;  // the key: the name as JSON, with quotes and colon
    Type type;
    int rank;       // -1: unknown
    bool as_bytes;  // strings are written in base64, also those that are text

    // Says whether its values may be those of classes, and whether they are the scores that `top_k` looks for.
    [[nodiscard]] bool has_numbers() const { return type != Type::string && type != Type::boolean && rank != 0; }
    [[nodiscard]] bool has_scores() const {
        const bool is_float = type == Type::float32 || type == Type::float64 || type == Type::half || type == Type::bfloat16;
        return is_float && (rank == 2 || rank < 0);
    }
};

// Where an engine finds a tensor. TensorFlow: an operation and the index of its output. LiteRT: the index of a signature
// and the tensor's position there.
struct Endpoint {
    uint64_t owner;
    int index;
};

struct Signature {
    std::string_view name;
    size_t index;  // in Model::signatures
    size_t input_count, output_count;
    std::array<Input, MAX_TENSORS> inputs;
    std::array<Output, MAX_TENSORS> outputs;
    std::array<Endpoint, MAX_TENSORS> feeds, fetches;
    int64_t smallest;   // rows that every run has at least: a request of fewer rows is filled up
    size_t size_count;  // 0: requests do not share runs
    std::array<int64_t, MAX_SIZES> sizes;  // rows that a shared run may have, in ascending order

    // How many rows the run of a request alone has, 0 where that is as many as it has.
    [[nodiscard]] int64_t own_size(int64_t rows) const { return rows && rows < smallest ? smallest : 0; }
    // How many rows a shared run for `rows` rows has, 0 where they are too many.
    [[nodiscard]] int64_t run_size(int64_t rows) const {
        for (size_t index = 0; index < size_count; ++index)
            if (sizes[index] >= rows) return sizes[index];
        return 0;
    }
    // Whether a request of so many rows gets the same bytes in a shared run as alone.
    [[nodiscard]] bool shares(int64_t rows) const {
        const int64_t own = std::max(rows, smallest);
        return rows && run_size(own) == own;
    }
    // The position of an input or an output of a name.
    [[nodiscard]] std::optional<size_t> input(std::string_view wanted) const {
        return position(inputs, input_count, wanted);
    }
    [[nodiscard]] std::optional<size_t> output(std::string_view wanted) const {
        return position(outputs, output_count, wanted);
    }

    // The output of scores: that of the name, or the only one where none is named.
    [[nodiscard]] std::optional<size_t> scores(std::optional<std::string_view> wanted) const {
        std::optional<size_t> only;
        for (size_t index = 0; index < output_count; ++index) {
            if (!outputs[index].has_scores() || outputs[index].name != wanted.value_or(outputs[index].name)) continue;
            if (only) return std::nullopt;
            only = index;
        }
        return only;
    }

  private:
    template <typename Tensors>
    static std::optional<size_t> position(const Tensors& tensors, size_t count, std::string_view wanted) {
        for (size_t index = 0; index < count; ++index)
            if (tensors[index].name == wanted) return index;
        return std::nullopt;
    }
};

struct Limits {
    int64_t rows, elements, id, string, pixels;  // pixels: negative where strings are no pictures
};

struct Model {
    std::unique_ptr<Engine> engine;
    Limits limits;
    std::string_view head;  // how an infer request's answer begins: {"model_name":...,"model_version":...
    std::string_view key, key_member;  // the field of a row that is not for the model, and that as JSON with its colon
    std::unique_ptr<std::string_view[]> labels;  // the names of the classes
    size_t label_count;
    bool null;              // a number that is not finite is written as null
    size_t signature_count;
    std::array<Signature, MAX_SIGNATURES> signatures;  // the first answers where none is named

    // The signature of a name, the first for an empty one; nullptr where there is none.
    [[nodiscard]] const Signature* find(std::string_view name) const {
        if (name.empty()) return signatures.data();
        for (size_t index = 0; index < signature_count; ++index)
            if (signatures[index].name == name) return &signatures[index];
        return nullptr;
    }
};

}  // namespace accelerator
