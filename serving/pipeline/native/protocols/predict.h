// The predict requests of TensorFlow Serving: tensorflow_serving/g3doc/api_rest.md.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "call.h"
#include "keys.h"
#include "options.h"
#include "ranked.h"
#include "../result.h"

namespace accelerator {

class Predict : public Call {
  public:
    enum class Form { rows, columns };
    Form form = Form::rows;
    Keys keys;
    std::optional<size_t> scores;  // the output whose highest classes are the answer
    int64_t top_k = 0;

    Declined decode(const Model& model, std::string_view body, const Options& asked) {
        Reader json(body);
        Options options = asked;
        const Signature* called = model.find(options.signature_name.value_or(""));
        if (!called) return Decline::signature;
        of(*called);
        Deferred tensors;
        std::optional<std::string_view> name;
        if (Declined declined = read_members(json, model, tensors, options, name)) return declined;
        called = model.find(name ? *name : options.signature_name.value_or(""));
        if (!called || options.names_another(model, *called)) return Decline::signature;
        if (called != signature) {
            of(*called);
            keys.drop();
            tensors.read_again([&](Reader& again) { return read_tensors(again, model); });
        }
        if (tensors.declined()) return tensors.declined();
        if (Declined declined = check_answer(model, options)) return declined;
        return within(model.limits);
    }

  private:
    enum class Member : unsigned { signature_name, instances, inputs, parameters };
    static constexpr std::array<std::string_view, 4> MEMBERS = {"signature_name", "instances", "inputs", "parameters"};

    Declined read_members(Reader& json, const Model& model, Deferred& tensors, Options& options,
                          std::optional<std::string_view>& name) {
        Seen<Member> seen;
        if (!json.take('{')) return Decline::json;
        do {
            const auto key = json.key();
            if (!key) return Decline::json;
            const auto member = member_of<Member>(MEMBERS, *key);
            if (!member || !seen.add(*member)) return Decline::member;
            Declined declined;
            switch (*member) {
                case Member::signature_name:
                    name = json.text();
                    declined = name ? call_early(model, *name, tensors) : Decline::signature;
                    break;
                case Member::parameters: declined = options.read_parameters(json); break;
                case Member::instances:
                case Member::inputs:
                    if (tensors.was_read()) return Decline::member;
                    form = *member == Member::instances ? Form::rows : Form::columns;
                    declined = tensors.read(json, [&](Reader& values) { return read_tensors(values, model); });
            }
            if (declined) return declined;
        } while (json.take(','));
        if (!json.take('}') || !json.at_end()) return Decline::json;
        return tensors.was_read() ? Declined() : Decline::member;
    }

    // Calls the signature of a name, unless the tensors have been read.
    Declined call_early(const Model& model, std::string_view name, const Deferred& tensors) {
        const Signature* const called = model.find(name);
        if (!called) return Decline::signature;
        if (!tensors.was_read()) of(*called);
        return {};
    }

    // Checks that the answer has a place for the keys, and scores for the classes.
    Declined check_answer(const Model& model, const Options& options) {
        top_k = options.top_k;
        if (top_k || options.scores) {
            scores = signature->scores(options.scores);
            if (!scores) return Decline::output;
        }
        if (!keys.any()) return {};
        if (top_k ? model.key == "classes" : signature->output(model.key).has_value()) return Decline::output;
        if (form == Form::rows) return {};
        for (size_t index = 0; index < signature->input_count; ++index)
            if (!signature->inputs[index].rank || columns[index].dims[0] != static_cast<int64_t>(keys.count()))
                return Decline::shape;
        return {};
    }

    Declined read_tensors(Reader& json, const Model& model) {
        return form == Form::rows ? read_rows(json, model) : read_columns(json, model);
    }

    Declined read_rows(Reader& json, const Model& model) {
        Reader ahead = json;
        if (!ahead.take('[')) return Decline::json;
        if (!ahead.next_is('{') || ahead.next_is_base64()) {
            if (signature->input_count != 1) return Decline::input;
            if (signature->inputs[0].rank < 1) return Decline::shape;
            return read_input(json, 0, 0, model.limits);
        }
        json = ahead;
        int64_t count = 0;
        do {
            if (Declined declined = read_object(json, count, model)) return declined;
            if (++count > model.limits.rows) return Decline::limit;
        } while (json.take(','));
        if (!json.take(']')) return Decline::json;
        for (size_t index = 0; index < signature->input_count; ++index) {
            int64_t& size = columns[index].dims[0];
            if (size < 0) size = count;
            if (size != count) return Decline::shape;
        }
        return {};
    }

    Declined read_columns(Reader& json, const Model& model) {
        if (json.next_is('{') && !json.next_is_base64()) return read_object(json, 0, model);
        if (signature->input_count != 1) return Decline::input;
        return read_input(json, 0, 0, model.limits);
    }

    // Reads an object with every input by its name, in any order: of columns, or of one row, without the first dimension.
    Declined read_object(Reader& json, int64_t row, const Model& model) {
        const size_t depth = form == Form::rows ? 1 : 0;
        if (!json.take('{')) return Decline::json;
        uint32_t seen = 0;
        do {
            const auto name = json.key();
            if (!name) return Decline::json;
            const auto index = signature->input(*name);
            Declined declined;
            if (!index && *name == model.key) {
                declined = depth ? keys.read(json, static_cast<size_t>(row)) : keys.read_list(json, model.limits.rows);
            } else {
                if (!index || seen & (1U << *index)) return Decline::input;
                if (signature->inputs[*index].rank < depth) return Decline::shape;
                seen |= 1U << *index;
                declined = read_input(json, *index, depth, model.limits);
            }
            if (declined) return declined;
        } while (json.take(','));
        if (!json.take('}')) return Decline::json;
        return seen == (1U << signature->input_count) - 1 ? Declined() : Decline::input;
    }
};

// Writes a predict request's answer: {"predictions": ...} for rows, {"outputs": ...} for columns.
class PredictAnswer {
  public:
    PredictAnswer(const Predict& call, const Model& model, const Results& results, Bytes& json)
        : call_(call), model_(model), results_(results), json_(json) {}

    Declined write() {
        const Signature& signature = *call_.signature;
        const bool by_rows = call_.form == Predict::Form::rows;
        const int64_t rows = by_rows ? call_.columns[0].dims[0] : 0;
        for (size_t index = 0; by_rows && index < signature.output_count; ++index)
            if ((!call_.top_k || index == *call_.scores) && (!results_[index].rank || results_[index].dims[0] != rows))
                return Decline::result;
        std::optional<Ranked> ranked;
        if (call_.top_k) {
            if (results_[*call_.scores].rank != 2) return Decline::result;
            ranked.emplace(results_[*call_.scores], call_.top_k);
            if (Declined declined = ranked->prepare(model_, results_, signature.output_count)) return declined;
        }
        ranked_ = ranked ? &*ranked : nullptr;
        json_.add(by_rows ? R"({"predictions":)" : R"({"outputs":)");
        if (!by_rows)
            add_columns();
        else if (!ranked && !call_.keys.any() && signature.output_count == 1)
            results_[0].add(json_, 0, 0, model_.null);
        else
            add_rows(rows);
        json_.add('}');
        return json_.ok() ? Declined() : Decline::memory;
    }

  private:
    void add_rows(int64_t rows) {
        for (int64_t row = 0; row < rows; ++row) {
            json_.add(row ? ',' : '[');
            const std::string_view key = call_.keys.of(static_cast<size_t>(row));
            if (!key.empty()) {
                json_.add('{');
                json_.add(model_.key_member);
                json_.add(key);
            }
            const char first = key.empty() ? '{' : ',';
            if (ranked_) {
                json_.add(first);
                json_.add(R"("classes":)");
                ranked_->add_classes(json_, static_cast<size_t>(row));
            } else {
                add_outputs(first, row, 1);
            }
            json_.add('}');
        }
        json_.add(']');
    }

    // The only value stands without its name - api_rest, Predict.
    void add_columns() {
        const bool named = call_.keys.any() || (!ranked_ && call_.signature->output_count > 1);
        if (call_.keys.any()) {
            json_.add('{');
            json_.add(model_.key_member);
            call_.keys.add_list(json_);
        }
        if (!ranked_ && !named) return results_[0].add(json_, 0, 0, model_.null);
        if (ranked_) {
            if (named) json_.add(R"(,"classes":)");
            json_.add('[');
            for (size_t row = 0; row < ranked_->rows(); ++row) {
                if (row) json_.add(',');
                ranked_->add_classes(json_, row);
            }
            json_.add(']');
        } else {
            add_outputs(call_.keys.any() ? ',' : '{', 0, 0);
        }
        if (named) json_.add('}');
    }

    // Adds every output by its name: of a row from depth 1, of all rows from depth 0.
    void add_outputs(char first, int64_t row, size_t depth) {
        const Signature& signature = *call_.signature;
        for (size_t index = 0; index < signature.output_count; ++index) {
            json_.add(index ? ',' : first);
            json_.add(signature.outputs[index].key);
            results_[index].add(json_, depth, row, model_.null);
        }
    }

    const Predict& call_;
    const Model& model_;
    const Results& results_;
    Bytes& json_;
    Ranked* ranked_ = nullptr;
};

inline Declined encode(const Predict& call, const Model& model, const Results& results, Answer& answer) {
    return PredictAnswer(call, model, results, answer.body).write();
}

}  // namespace accelerator
