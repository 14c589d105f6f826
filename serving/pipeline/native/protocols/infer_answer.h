// The answers to infer requests.

#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "../bytes.h"
#include "../model.h"
#include "../result.h"
#include "../write.h"
#include "infer.h"
#include "ranked.h"

namespace accelerator {

// Writes an infer request's answer, binary tensors behind the JSON.
class InferAnswer {
  public:
    InferAnswer(const Infer& call, const Model& model, Results& results, Answer& answer)
        : call_(call), model_(model), results_(results), answer_(answer) {}

    Declined write() {
        Bytes& json = answer_.body;
        json.add(model_.head);
        if (call_.id) {
            json.add(R"(,"id":")");
            json.add(*call_.id);
            json.add('"');
        }
        json.add(R"(,"outputs":[)");
        for (size_t index = 0; index < call_.asked_count; ++index) {
            if (index) json.add(',');
            if (Declined declined = add_output(index)) return declined;
        }
        json.add("]}");
        if (is_any_binary_) answer_.json_size = json.size();
        for (size_t index = 0; index < call_.asked_count; ++index) {
            const Asked& asked = call_.asked[index];
            if (!call_.is_binary(asked)) continue;
            if (asked.classes)
                json.add({texts_[index].data(), texts_[index].size()});
            else
                results_[asked.output].add_binary(json);
        }
        return json.ok() ? Declined() : Decline::memory;
    }

  private:
    Declined add_output(size_t index) {
        const Asked& asked = call_.asked[index];
        Result& result = results_[asked.output];
        const bool binary = call_.is_binary(asked);
        is_any_binary_ = is_any_binary_ || binary;
        if (asked.classes) return add_classes(index, result, binary);
        result.as_bytes = false;
        if (!result.all_text && !binary) return Decline::result;
        result.add_tensor(answer_.body, call_.signature->outputs[asked.output], binary, model_.null);
        return {};
    }

    Declined add_classes(size_t index, const Result& result, bool binary) {
        if (!result.rank) return Decline::result;
        const Signature& signature = *call_.signature;
        Ranked ranked(result, call_.asked[index].classes);
        if (Declined declined = ranked.prepare(model_, results_, signature.output_count)) return declined;
        Bytes& json = answer_.body;
        Dims dims = result.dims;
        dims[result.rank - 1] = static_cast<int64_t>(ranked.count());
        add_head(json, signature.outputs[call_.asked[index].output].key, dims, result.rank, "BYTES");
        if (binary) {
            for (size_t row = 0; row < ranked.rows(); ++row)
                ranked.each_text(row, [&](std::string_view text) {
                    texts_[index].add_bytes_of(static_cast<uint32_t>(text.size()));
                    texts_[index].add(text);
                });
            add_binary_size(json, texts_[index].size());
            return texts_[index].ok() ? Declined() : Decline::memory;
        }
        json.add(R"(","data":[)");
        bool is_first = true;
        for (size_t row = 0; row < ranked.rows(); ++row)
            ranked.each_text(row, [&](std::string_view text) {
                if (!is_first) json.add(',');
                is_first = false;
                add_text(json, text);
            });
        json.add("]}");
        return {};
    }

    const Infer& call_;
    const Model& model_;
    Results& results_;
    Answer& answer_;
    std::array<Bytes, MAX_TENSORS> texts_;  // classes, which stand behind the JSON
    bool is_any_binary_ = false;
};

inline Declined encode(const Infer& call, const Model& model, Results& results, Answer& answer) {
    return InferAnswer(call, model, results, answer).write();
}

}  // namespace accelerator
