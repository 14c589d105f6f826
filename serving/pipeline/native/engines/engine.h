// What runs the signatures of a model: TensorFlow's C library (tensorflow_engine.h) or LiteRT (litert_engine.h).

#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>

#include "../model.h"
#include "../protocols/call.h"
#include "../result.h"

namespace accelerator {

// Copies the elements of an input to where its tensor has them: those of a call and of those after it, then the last row
// again and again up to `size` bytes, which are `rows` rows.
inline void copy_elements(const Call& first, size_t index, int64_t rows, char* to, size_t size) {
    const char* const end = to + size;
    for (const Call* call = &first; call; call = call->next) {
        const std::string_view data = call->columns[index].data();
        std::memcpy(to, data.data(), data.size());
        to += data.size();
    }
    const size_t row = to < end ? size / static_cast<size_t>(rows) : 0;
    for (; to < end; to += row) std::memcpy(to, to - row, row);
}

// One run of a signature, from its inputs to its outputs, which are valid until it ends.
class Run {
  public:
    Run() = default;
    Run(const Run&) = delete;
    Run(Run&&) = delete;
    Run& operator=(const Run&) = delete;
    Run& operator=(Run&&) = delete;

    // Makes the input tensors of a call and of those after it; `rows`, where not 0, is how many rows they have in all: the
    // last row is repeated up to there. May free the columns' memory, where the call is alone and is not run again.
    [[nodiscard]] virtual Declined feed(Call& call, int64_t rows) = 0;
    // Runs the signature; declined where Python is to run it instead.
    [[nodiscard]] virtual Declined run(const Signature& signature) = 0;
    // TensorFlow's status: 0, or why it refuses the request.
    [[nodiscard]] virtual int code() const = 0;
    [[nodiscard]] virtual const char* message() const = 0;
    // Reads the outputs.
    [[nodiscard]] virtual Declined look(const Signature& signature, Results& results) const = 0;
    // Gives back what the run holds; it is of no use afterwards.
    virtual void end() = 0;

  protected:
    ~Run() = default;
};

struct EndRun {
    void operator()(Run* run) const { run->end(); }
};

// Threads may begin runs at once.
class Engine {
  public:
    Engine() = default;
    Engine(const Engine&) = delete;
    Engine(Engine&&) = delete;
    Engine& operator=(const Engine&) = delete;
    Engine& operator=(Engine&&) = delete;
    virtual ~Engine() = default;

    // nullptr where there is no memory.
    [[nodiscard]] virtual std::unique_ptr<Run, EndRun> begin() = 0;
};

}  // namespace accelerator
