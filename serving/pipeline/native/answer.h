// The way of a request: its body becomes a call, the call is run, the results become a body.

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string_view>

#include "infer.h"
#include "model.h"
#include "predict.h"
#include "run.h"

namespace accelerator {

inline int64_t now() {  // what time.perf_counter_ns reads
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * int64_t{1000000000} + time.tv_nsec;
}

// What is about to be run, written where a parent process reads it if this one dies: "f: x [3, 4], y [3]". The address is
// of 512 bytes: the text's size in two, and the text.
class Note {
  public:
    explicit Note(unsigned char* address) : address_(address) {}

    void write(const Call& call) {
        if (!address_) return;
        const Signature& signature = *call.signature;
        add(signature.name);
        for (size_t index = 0; index < signature.input_count; ++index) {
            add(index ? ", " : ": ");
            add(signature.inputs[index].name);
            add(" [");
            for (size_t axis = 0; axis < signature.inputs[index].rank; ++axis) {
                std::array<char, 24> number;
                const int size = std::snprintf(number.data(), number.size(), axis ? ", %lld" : "%lld",
                                               static_cast<long long>(call.columns[index].dims[axis]));
                add({number.data(), static_cast<size_t>(size)});
            }
            add("]");
        }
        address_[0] = address_[1] = 0;  // no size while the text changes
        std::memcpy(address_ + 2, text_.data(), size_);
        address_[0] = static_cast<unsigned char>(size_ & 255);
        address_[1] = static_cast<unsigned char>(size_ >> 8);
    }

  private:
    void add(std::string_view text) {
        const size_t count = std::min(text.size(), text_.size() - size_);
        std::memcpy(text_.data() + size_, text.data(), count);
        size_ += count;
    }

    unsigned char* address_;
    std::array<char, 510> text_;
    size_t size_ = 0;
};

template <typename Request>
Declined run_and_encode(Request& call, const Model& model, Answer& answer) {
    Run run(model);
    answer.signature = static_cast<size_t>(call.signature - model.signatures.data());
    answer.rows = call.rows();
    if (Declined declined = run.feed(call)) return declined;
    run.run(*call.signature);
    answer.code = run.code();
    if (answer.code) {
        answer.body.add(run.message());
        return {};
    }
    answer.ran = now();
    Results results;
    if (Declined declined = run.look(*call.signature, results)) return declined;
    const Declined declined = encode(call, model, results, answer);
    answer.encoded = now();
    return declined;
}

// Answers a request; `arguments` are those of the protocol's `decode`.
template <typename Request, typename... Arguments>
void respond(const Model& model, Note note, Answer& answer, Arguments... arguments) {
    answer.decoding = now();
    Request call;
    answer.declined = call.decode(model, arguments...);
    if (answer.declined) return;
    answer.decoded = now();
    note.write(call);
    answer.declined = run_and_encode(call, model, answer);
}

}  // namespace accelerator
