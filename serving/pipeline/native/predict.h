// The predict requests of TensorFlow Serving: tensorflow_serving/g3doc/api_rest.md.

#pragma once

#include <cstdint>
#include <string_view>

#include "call.h"
#include "result.h"

namespace accelerator {

class Predict : public Call {
  public:
    enum class Form { rows, columns };
    Form form = Form::rows;

    // A signature that is named behind the numbers is declined: they cannot be read before it is known.
    Declined decode(const Model& model, std::string_view body) {
        Reader json(body);
        of(model.signatures[0]);
        if (!json.take('{')) return Decline::json;
        auto key = json.key();
        if (key == "signature_name") {
            const auto name = json.text();
            if (!name || !json.take(',')) return Decline::json;
            const Signature* const called = model.find(*name);
            if (!called) return Decline::signature;
            of(*called);
            key = json.key();
        }
        if (!key) return Decline::json;
        if (key == "instances") {
            form = Form::rows;
            if (Declined declined = read_rows(json, model.limits)) return declined;
        } else if (key == "inputs") {
            form = Form::columns;
            if (Declined declined = read_columns(json, model.limits)) return declined;
        } else {
            return Decline::member;
        }
        if (!json.take('}')) return json.next_is(',') ? Decline::member : Decline::json;
        return json.at_end() ? within(model.limits) : Decline::json;
    }

  private:
    Declined read_rows(Reader& json, const Limits& limits) {
        Reader ahead = json;
        if (!ahead.take('[')) return Decline::json;
        if (!ahead.next_is('{') || ahead.next_is_base64()) {
            if (signature->input_count != 1) return Decline::input;
            if (signature->inputs[0].rank < 1) return Decline::shape;
            return read_input(json, 0, 0, limits);
        }
        json = ahead;
        int64_t count = 0;
        do {
            if (Declined declined = read_members(json, 1, limits)) return declined;
            if (++count > limits.rows) return Decline::limit;
        } while (json.take(','));
        if (!json.take(']')) return Decline::json;
        for (size_t index = 0; index < signature->input_count; ++index) {
            int64_t& size = columns[index].dims[0];
            if (size < 0) size = count;
            if (size != count) return Decline::shape;
        }
        return {};
    }

    Declined read_columns(Reader& json, const Limits& limits) {
        if (json.next_is('{') && !json.next_is_base64()) return read_members(json, 0, limits);
        if (signature->input_count != 1) return Decline::input;
        return read_input(json, 0, 0, limits);
    }

    // Reads an object with every input by its name, in any order, of tensors without their first `depth` dimensions.
    Declined read_members(Reader& json, size_t depth, const Limits& limits) {
        if (!json.take('{')) return Decline::json;
        uint32_t seen = 0;
        do {
            const auto name = json.key();
            if (!name) return Decline::json;
            const auto index = signature->input(*name);
            if (!index || seen & (1U << *index)) return Decline::input;
            if (signature->inputs[*index].rank < depth) return Decline::shape;
            seen |= 1U << *index;
            if (Declined declined = read_input(json, *index, depth, limits)) return declined;
        } while (json.take(','));
        if (!json.take('}')) return Decline::json;
        return seen == (1U << signature->input_count) - 1 ? Declined() : Decline::input;
    }
};

// Writes an object of all outputs, or the only output without its name: of a row from depth 1, of all rows from depth 0.
inline void add_outputs(Bytes& json, const Signature& signature, const Results& results, int64_t row, size_t depth,
                        bool null) {
    if (signature.output_count == 1) return results[0].add(json, depth, row, null);
    for (size_t index = 0; index < signature.output_count; ++index) {
        json.add(index ? ',' : '{');
        json.add(signature.outputs[index].key);
        results[index].add(json, depth, row, null);
    }
    json.add('}');
}

// Writes the answer: {"predictions": ...} for rows, {"outputs": ...} for columns.
inline Declined encode(const Predict& call, const Model& model, const Results& results, Answer& answer) {
    const Signature& signature = *call.signature;
    const bool by_rows = call.form == Predict::Form::rows;
    const int64_t rows = by_rows ? call.columns[0].dims[0] : 0;
    Bytes& json = answer.body;
    for (size_t index = 0; by_rows && index < signature.output_count; ++index)
        if (!results[index].rank || results[index].dims[0] != rows) return Decline::result;
    json.add(by_rows ? R"({"predictions":)" : R"({"outputs":)");
    if (by_rows && signature.output_count > 1) {
        json.add('[');
        for (int64_t row = 0; row < rows; ++row) {
            if (row) json.add(',');
            add_outputs(json, signature, results, row, 1, model.null);
        }
        json.add(']');
    } else {
        add_outputs(json, signature, results, 0, 0, model.null);
    }
    json.add('}');
    return json.ok() ? Declined() : Decline::memory;
}

}  // namespace accelerator
