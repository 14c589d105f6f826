// Signatures run by TensorFlow's C library.

#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>

#include "engine.h"
#include "tensorflow.h"

namespace accelerator {

// What a run holds of TensorFlow's, given back at its end.
class TensorFlowRun final : public Run {
  public:
    TensorFlowRun(const Library& tf, TF_Session* session) : tf_(tf), session_(session), status_(tf.status()) {}

    Declined feed(Call& call, int64_t rows) override {
        for (size_t index = 0; index < call.signature->input_count; ++index) {
            const Input& input = call.signature->inputs[index];
            Dims dims = call.columns[index].dims;
            if (rows) dims[0] = rows;
            size_t count = 1;
            for (size_t axis = 0; axis < input.rank; ++axis) count *= static_cast<size_t>(dims[axis]);
            const Shaped shaped{call, index, input.type, dims, input.rank, count};
            fed_[index] = input.type == Type::string ? strings(shaped) : numbers(shaped);
            if (!fed_[index]) return Decline::memory;
            if (call.next) continue;
            call.columns[index].elements.clear();
            call.columns[index].text.clear();
        }
        return {};
    }

    Declined run(const Signature& signature) override {
        std::array<TF_Tensor*, MAX_TENSORS> inputs{}, outputs{};
        const auto feeds = endpoints(signature.feeds, signature.input_count);
        const auto fetches = endpoints(signature.fetches, signature.output_count);
        for (size_t index = 0; index < signature.input_count; ++index) inputs[index] = fed_[index].get();
        tf_.run(session_, nullptr, feeds.data(), inputs.data(), static_cast<int>(signature.input_count), fetches.data(),
                outputs.data(), static_cast<int>(signature.output_count), nullptr, 0, nullptr, status_.get());
        for (size_t index = 0; index < signature.output_count; ++index) fetched_[index] = tf_.owned(outputs[index]);
        return {};
    }
    [[nodiscard]] int code() const override { return tf_.get_code(status_.get()); }
    [[nodiscard]] const char* message() const override { return tf_.message(status_.get()); }

    Declined look(const Signature& signature, Results& results) const override {
        for (size_t index = 0; index < signature.output_count; ++index) {
            const TF_Tensor* const tensor = fetched_[index].get();
            if (!tensor) return Decline::result;  // "On failure, output_values[] contains NULLs" - c_api.h
            Given given{static_cast<Type>(tf_.tensor_type(tensor)), static_cast<size_t>(tf_.num_dims(tensor)), {}, {},
                        &tf_.strings};
            if (given.rank > MAX_RANK) return Decline::result;
            for (size_t axis = 0; axis < given.rank; ++axis) given.dims[axis] = tf_.dim(tensor, static_cast<int>(axis));
            given.data = {static_cast<const char*>(tf_.data(tensor)), tf_.byte_size(tensor)};
            if (Declined declined = results[index].look(given, signature.outputs[index])) return declined;
        }
        return {};
    }
    void end() override { delete this; }

  private:
    // An input of a chain of calls.
    struct Shaped {
        const Call& first;
        size_t index;
        Type type;
        const Dims& dims;
        size_t rank, count;
    };

    [[nodiscard]] Tensor numbers(const Shaped& input) const {
        const size_t size = input.count * item_size(input.type);
        Tensor tensor = tf_.owned(tf_.allocate_tensor(static_cast<int>(input.type), input.dims.data(),
                                                      static_cast<int>(input.rank), size));
        auto* const to = static_cast<char*>(tensor ? tf_.data(tensor.get()) : nullptr);
        if (!to) return tf_.owned(nullptr);  // there was no memory
        copy_elements(input.first, input.index, input.dims[0], to, size);
        return tensor;
    }

    [[nodiscard]] Tensor strings(const Shaped& input) const {
        const size_t size = input.count * STRING_SIZE;
        auto* const buffer = static_cast<char*>(std::malloc(size));
        if (!buffer) return tf_.owned(nullptr);
        char* to = buffer;
        const auto add = [&](const Column& column, size_t from, size_t count) {
            for (size_t index = from; index < count; ++index, to += STRING_SIZE) {
                const std::string_view text = column.string(index);
                tf_.string_init(to);
                tf_.string_copy(to, text.data(), text.size());
            }
        };
        const Call* last = &input.first;
        for (const Call* call = last; call; call = call->next) {
            last = call;
            add(call->columns[input.index], 0, call->columns[input.index].count(input.type));
        }
        const Column& column = last->columns[input.index];
        const size_t count = column.count(input.type);
        const size_t row = to < buffer + size ? input.count / static_cast<size_t>(input.dims[0]) : 0;
        while (to < buffer + size) add(column, count - row, count);
        // The tensor may live longer than this run: a graph may keep an input. Where none is made, TensorFlow releases
        // the buffer as well.
        auto* const dealloc = reinterpret_cast<void*>(tf_.string_dealloc);
        return tf_.owned(tf_.new_tensor(static_cast<int>(Type::string), input.dims.data(), static_cast<int>(input.rank),
                                        buffer, size, release, dealloc));
    }
    static void release(void* data, size_t size, void* dealloc) {
        for (size_t at = 0; at < size; at += STRING_SIZE)
            reinterpret_cast<void (*)(void*)>(dealloc)(static_cast<char*>(data) + at);
        std::free(data);
    }

    static std::array<TF_Output, MAX_TENSORS> endpoints(const std::array<Endpoint, MAX_TENSORS>& from, size_t count) {
        std::array<TF_Output, MAX_TENSORS> to{};
        for (size_t index = 0; index < count; ++index)
            to[index] = {reinterpret_cast<TF_Operation*>(from[index].owner), from[index].index};
        return to;
    }

    const Library& tf_;
    TF_Session* const session_;
    Status status_;
    std::array<Tensor, MAX_TENSORS> fed_, fetched_;
};

class TensorFlowEngine final : public Engine {
  public:
    TensorFlowEngine(const Library& library, TF_Session* session) : library_(library), session_(session) {}

    std::unique_ptr<Run, EndRun> begin() override {
        return std::unique_ptr<Run, EndRun>(new (std::nothrow) TensorFlowRun(library_, session_));
    }

  private:
    const Library library_;
    TF_Session* const session_;
};

}  // namespace accelerator
