// A run of a signature: columns become tensors, TensorFlow's C library runs them.

#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "call.h"
#include "model.h"
#include "result.h"

namespace accelerator {

// What a run holds of TensorFlow's, given back at its end.
class Run {
  public:
    explicit Run(const Model& model) : model_(model), tf_(model.tf), status_(tf_.status()) {}

    // Makes the tensors, and frees the columns' memory as it goes.
    Declined feed(Call& call) {
        for (size_t index = 0; index < call.signature->input_count; ++index) {
            const Input& input = call.signature->inputs[index];
            Column& column = call.columns[index];
            size_t count = 1;
            for (size_t axis = 0; axis < input.rank; ++axis) count *= static_cast<size_t>(column.dims[axis]);
            if (count != column.count(input.type)) return Decline::shape;
            fed_[index] = input.type == Type::string ? strings(input, column, count) : numbers(input, column, count);
            if (!fed_[index]) return Decline::memory;
            column.elements.clear();
            column.text.clear();
        }
        return {};
    }

    // Runs the signature; `code` says what came of it.
    void run(const Signature& signature) {
        std::array<TF_Tensor*, MAX_TENSORS> inputs{}, outputs{};
        for (size_t index = 0; index < signature.input_count; ++index) inputs[index] = fed_[index].get();
        tf_.run(model_.session, nullptr, signature.feeds.data(), inputs.data(),
                static_cast<int>(signature.input_count), signature.fetches.data(), outputs.data(),
                static_cast<int>(signature.output_count), nullptr, 0, nullptr, status_.get());
        for (size_t index = 0; index < signature.output_count; ++index) fetched_[index] = tf_.owned(outputs[index]);
    }
    // TensorFlow's status: 0, or why it refuses the request.
    [[nodiscard]] int code() const { return tf_.get_code(status_.get()); }
    [[nodiscard]] const char* message() const { return tf_.message(status_.get()); }

    Declined look(const Signature& signature, Results& results) const {
        for (size_t index = 0; index < signature.output_count; ++index) {
            const Output& output = signature.outputs[index];
            if (!fetched_[index]) return Decline::result;  // "On failure, output_values[] contains NULLs" - c_api.h
            if (Declined declined = results[index].look(tf_, fetched_[index].get(), output, model_.null))
                return declined;
        }
        return {};
    }

  private:
    [[nodiscard]] Tensor numbers(const Input& input, const Column& column, size_t count) const {
        const size_t size = count * item_size(input.type);
        Tensor tensor = tf_.owned(tf_.allocate_tensor(static_cast<int>(input.type), column.dims.data(),
                                                      static_cast<int>(input.rank), size));
        void* const data = tensor ? tf_.data(tensor.get()) : nullptr;
        if (!data) return tf_.owned(nullptr);  // there was no memory
        std::memcpy(data, column.data().data(), size);
        return tensor;
    }

    [[nodiscard]] Tensor strings(const Input& input, const Column& column, size_t count) const {
        const size_t size = count * STRING_SIZE;
        auto* const buffer = static_cast<char*>(std::malloc(size));
        if (!buffer) return tf_.owned(nullptr);
        for (size_t index = 0; index < count; ++index) {
            const std::string_view text = column.string(index);
            tf_.string_init(buffer + index * STRING_SIZE);
            tf_.string_copy(buffer + index * STRING_SIZE, text.data(), text.size());
        }
        // The tensor may live longer than this run: a graph may keep an input. Where none is made, TensorFlow releases
        // the buffer as well.
        auto* const dealloc = reinterpret_cast<void*>(tf_.string_dealloc);
        return tf_.owned(tf_.new_tensor(static_cast<int>(Type::string), column.dims.data(),
                                        static_cast<int>(input.rank), buffer, size, release, dealloc));
    }
    static void release(void* data, size_t size, void* dealloc) {
        for (size_t at = 0; at < size; at += STRING_SIZE)
            reinterpret_cast<void (*)(void*)>(dealloc)(static_cast<char*>(data) + at);
        std::free(data);
    }

    const Model& model_;
    const Library& tf_;
    Status status_;
    std::array<Tensor, MAX_TENSORS> fed_, fetched_;
};

}  // namespace accelerator
