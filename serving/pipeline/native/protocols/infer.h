// The infer requests of the Open Inference Protocol, with Triton's binary tensor data.

#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include "call.h"
#include "options.h"

namespace accelerator {

// An output that is asked for.
struct Asked {
    size_t output;
    std::optional<bool> binary;  // as the request says of this one
    int64_t classes = 0;         // of the highest values, as text; 0: the tensor itself
};

class Infer : public Call {
  public:
    std::optional<std::string_view> id;
    size_t asked_count = 0;
    std::array<Asked, MAX_TENSORS> asked;  // in the order of the answer
    bool all_binary = false;               // outputs of which the request does not say it

    // The JSON is the first `size` bytes of the body.
    Declined decode(const Model& model, std::string_view body, size_t size, const Options& options) {
        if (size > body.size()) return Decline::binary;
        if (options.scores || options.top_k) return Decline::member;
        body_ = body;
        next_ = size;
        Reader json(body.substr(0, size));
        const Signature* called = model.find(options.signature_name.value_or(""));
        if (!called) return Decline::signature;
        of(*called);
        if (Declined declined = read_members(json, model, called)) return declined;
        if (!json.take('}') || !json.at_end()) return Decline::json;
        if (options.names_another(model, *called)) return Decline::signature;
        if (called != signature) read_again(*called, size, model.limits);
        if (inputs_.declined()) return inputs_.declined();
        if (outputs_.declined()) return outputs_.declined();
        if (next_ != body.size()) return Decline::binary;
        if (id && id->size() > static_cast<size_t>(model.limits.id)) return Decline::limit;
        if (!asked_count)
            for (; asked_count < signature->output_count; ++asked_count) asked[asked_count] = {asked_count, {}};
        if (Declined declined = check_forms()) return declined;
        return within(model.limits);
    }
    [[nodiscard]] bool is_binary(const Asked& output) const { return output.binary.value_or(all_binary); }

  private:
    // Clients of KServe's name the model in the body, too.
    enum class Member : unsigned { id, inputs, outputs, parameters, model_name, model_version };
    static constexpr std::array<std::string_view, 6> MEMBERS = {"id",         "inputs",     "outputs",
                                                                "parameters", "model_name", "model_version"};

    // `called` becomes the signature that the request names.
    Declined read_members(Reader& json, const Model& model, const Signature*& called) {
        Seen<Member> seen;
        if (!json.take('{')) return Decline::json;
        do {
            const auto key = json.key();
            if (!key) return Decline::json;
            const auto member = member_of<Member>(MEMBERS, *key);
            if (!member || !seen.add(*member)) return Decline::member;
            if (Declined declined = read_member(json, *member, model, called)) return declined;
            if (!inputs_.was_read() && !outputs_.was_read() && called != signature) of(*called);
        } while (json.take(','));
        return seen.has(Member::inputs) ? Declined() : Decline::member;
    }

    Declined read_member(Reader& json, Member member, const Model& model, const Signature*& called) {
        switch (member) {
            case Member::id: id = json.text(); return id ? Declined() : Decline::member;
            case Member::inputs: return inputs_.read(json, [&](Reader& from) { return read_inputs(from, model.limits); });
            case Member::outputs: return outputs_.read(json, [&](Reader& from) { return read_outputs(from); });
            case Member::parameters: return read_parameters(json, model, called);
            case Member::model_name:
            case Member::model_version: return json.scalar() ? Declined() : Decline::member;
        }
        return Decline::member;
    }

    void read_again(const Signature& called, size_t size, const Limits& limits) {
        of(called);
        next_ = size;
        asked_count = 0;
        inputs_.read_again([&](Reader& from) { return read_inputs(from, limits); });
        outputs_.read_again([&](Reader& from) { return read_outputs(from); });
    }

    // Checks that what is asked for in JSON has a form there.
    [[nodiscard]] Declined check_forms() const {
        for (size_t index = 0; index < asked_count; ++index) {
            const Output& output = signature->outputs[asked[index].output];
            if (asked[index].classes ? !output.has_numbers() : output.type == Type::bfloat16 && !is_binary(asked[index]))
                return Decline::output;
        }
        return {};
    }

    Declined read_inputs(Reader& json, const Limits& limits) {
        uint32_t seen = 0;
        if (!json.take('[')) return Decline::json;
        do {
            Entry entry;
            if (Declined declined = read_entry(json, limits, entry)) return declined;
            if (seen & (1U << *entry.input)) return Decline::input;
            seen |= 1U << *entry.input;
        } while (json.take(','));
        if (!json.take(']')) return Decline::json;
        return seen == (1U << signature->input_count) - 1 ? Declined() : Decline::input;
    }

    // One of the inputs: its members, as far as they have been read.
    enum class Field : unsigned { name, shape, datatype, data, parameters };
    static constexpr std::array<std::string_view, 5> FIELDS = {"name", "shape", "datatype", "data", "parameters"};
    struct Entry {
        std::optional<size_t> input;
        std::string_view datatype;
        Dims dims;
        size_t rank = 0;
        int64_t count = 1, binary_size = -1;
        std::optional<Reader> data;  // which came before the name or the shape
        Seen<Field> seen;
    };

    Declined read_entry(Reader& json, const Limits& limits, Entry& entry) {
        if (!json.take('{')) return Decline::json;
        do {
            const auto key = json.key();
            if (!key) return Decline::json;
            const auto field = member_of<Field>(FIELDS, *key);
            if (!field || !entry.seen.add(*field)) return Decline::member;
            if (Declined declined = read_field(json, *field, limits, entry)) return declined;
        } while (json.take(','));
        if (!json.take('}')) return Decline::json;
        const auto has = [&](Field field) { return entry.seen.has(field); };
        if (!entry.input || entry.datatype != signature->inputs[*entry.input].datatype) return Decline::input;
        if (!has(Field::shape) || has(Field::data) == has(Field::parameters)) return Decline::member;
        if (has(Field::parameters)) {
            if (Declined declined = take_shape(entry)) return declined;
            return take_binary(entry);
        }
        return entry.data ? read_data(*entry.data, limits, entry) : Declined();
    }

    Declined read_field(Reader& json, Field field, const Limits& limits, Entry& entry) {
        switch (field) {
            case Field::name:
                if (const auto name = json.text()) entry.input = signature->input(*name);
                return entry.input ? Declined() : Decline::input;
            case Field::datatype:
                if (const auto name = json.text()) entry.datatype = *name;
                return entry.datatype.data() ? Declined() : Decline::input;
            case Field::shape: return read_shape(json, limits, entry);
            case Field::data:
                if (entry.input && entry.seen.has(Field::shape)) return read_data(json, limits, entry);
                entry.data = json;
                return json.pass() ? Declined() : Decline::json;
            case Field::parameters:
                if (const auto size = read_size(json, "binary_data_size")) entry.binary_size = *size;
                return entry.binary_size < 0 ? Decline::member : Declined();
        }
        return Decline::member;
    }

    static Declined read_shape(Reader& json, const Limits& limits, Entry& entry) {
        if (!json.take('[')) return Decline::shape;
        if (json.take(']')) return {};
        do {
            if (entry.rank == MAX_RANK) return Decline::shape;
            const auto size = json.number<int64_t>();
            if (!size || *size < 1) return Decline::shape;
            if (*size > limits.elements / entry.count) return Decline::limit;
            entry.dims[entry.rank++] = *size;
            entry.count *= *size;
        } while (json.take(','));
        return json.take(']') ? Declined() : Decline::shape;
    }

    // Gives the input the shape that the entry says.
    Declined take_shape(const Entry& entry) {
        const Input& input = signature->inputs[*entry.input];
        if (entry.rank != input.rank) return Decline::shape;
        for (size_t axis = 0; axis < input.rank; ++axis)
            if (input.dims[axis] >= 0 && input.dims[axis] != entry.dims[axis]) return Decline::shape;
        columns[*entry.input].dims = entry.dims;
        return {};
    }

    // Row by row, flat or nested as the shape is.
    Declined read_data(Reader& json, const Limits& limits, Entry& entry) {
        if (Declined declined = take_shape(entry)) return declined;
        if (signature->inputs[*entry.input].type == Type::bfloat16) return Decline::value;  // it is binary alone
        Reader ahead = json;
        if (!ahead.take('[')) return Decline::shape;
        if (ahead.next_is('[')) return read_input(json, *entry.input, 0, limits);
        Dims flat;
        flat[0] = entry.count;
        return read_nest(json, signature->inputs[*entry.input].type, columns[*entry.input], {1, flat}, 0,
                         limits.elements);
    }

    // Takes an input's data from behind the JSON.
    Declined take_binary(const Entry& entry) {
        const Type type = signature->inputs[*entry.input].type;
        const auto size = static_cast<size_t>(entry.binary_size);
        if (size > body_.size() - next_) return Decline::binary;
        const std::string_view data = body_.substr(next_, size);
        next_ += size;
        Column& column = columns[*entry.input];
        if (type == Type::string) return take_strings(column, data, entry.count);
        column.given = data;
        if (type == Type::boolean)
            for (const char octet : data)
                if (octet != 0 && octet != 1) return Decline::value;
        return size == static_cast<size_t>(entry.count) * item_size(type) ? Declined() : Decline::binary;
    }

    // Each behind its length, in 4 bytes.
    static Declined take_strings(Column& column, std::string_view data, int64_t count) {
        for (int64_t index = 0; index < count; ++index) {
            uint32_t length;
            if (data.size() < sizeof length) return Decline::binary;
            std::memcpy(&length, data.data(), sizeof length);
            data.remove_prefix(sizeof length);
            if (data.size() < length) return Decline::binary;
            column.elements.add_bytes_of(Part{column.text.size(), length});
            column.text.add(data.substr(0, length));
            data.remove_prefix(length);
        }
        if (!data.empty()) return Decline::binary;
        return column.text.ok() && column.elements.ok() ? Declined() : Decline::memory;
    }

    Declined read_outputs(Reader& json) {
        if (!json.take('[')) return Decline::json;
        if (json.take(']')) return {};
        do {
            if (asked_count == signature->output_count) return Decline::output;
            Asked& wanted = asked[asked_count];
            if (Declined declined = read_output(json, wanted)) return declined;
            for (size_t other = 0; other < asked_count; ++other)
                if (asked[other].output == wanted.output) return Decline::output;
            ++asked_count;
        } while (json.take(','));
        return json.take(']') ? Declined() : Decline::json;
    }

    Declined read_output(Reader& json, Asked& wanted) const {
        if (!json.take('{')) return Decline::json;
        if (json.key() != "name") return Decline::member;
        const auto name = json.text();
        const auto index = name ? signature->output(*name) : std::nullopt;
        if (!index) return Decline::output;
        wanted = {*index, {}};
        if (json.take(',')) {
            if (json.key() != "parameters") return Decline::member;
            if (Declined declined = read_wishes(json, wanted)) return declined;
        }
        return json.take('}') ? Declined() : Decline::member;
    }

    static Declined read_wishes(Reader& json, Asked& wanted) {
        enum class Wish : unsigned { binary_data, classification };
        constexpr std::array<std::string_view, 2> WISHES = {"binary_data", "classification"};
        Seen<Wish> seen;
        if (!json.take('{')) return Decline::json;
        do {
            const auto key = json.key();
            const auto wish = key ? member_of<Wish>(WISHES, *key) : std::nullopt;
            if (!wish || !seen.add(*wish)) return Decline::member;
            if (*wish == Wish::binary_data) {
                wanted.binary = json.flag();
                if (!wanted.binary) return Decline::member;
            } else {
                const auto count = json.number<int64_t>();
                if (!count || *count < 0) return Decline::member;
                wanted.classes = *count;
            }
        } while (json.take(','));
        return json.take('}') ? Declined() : Decline::json;
    }

    Declined read_parameters(Reader& json, const Model& model, const Signature*& called) {
        // The others are those of Triton's scheduler and of its models with state, which its client sends along.
        enum class Parameter : unsigned { binary_data_output, signature_name };
        constexpr std::array<std::string_view, 7> PARAMETERS = {
            "binary_data_output", "signature_name", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout"};
        Seen<Parameter> seen;
        if (!json.take('{')) return Decline::json;
        if (json.take('}')) return {};
        do {
            const auto key = json.key();
            const auto parameter = key ? member_of<Parameter>(PARAMETERS, *key) : std::nullopt;
            if (!parameter || !seen.add(*parameter)) return Decline::member;
            if (*parameter == Parameter::binary_data_output) {
                const auto flag = json.flag();
                if (!flag) return Decline::member;
                all_binary = *flag;
            } else if (*parameter == Parameter::signature_name) {
                const auto name = json.text();
                called = name ? model.find(*name) : nullptr;
                if (!called) return Decline::signature;
            } else if (!json.scalar()) {
                return Decline::member;
            }
        } while (json.take(','));
        return json.take('}') ? Declined() : Decline::json;
    }

    // Reads an object of one number.
    static std::optional<int64_t> read_size(Reader& json, std::string_view name) {
        if (!json.take('{') || json.key() != name) return std::nullopt;
        const auto size = json.number<int64_t>();
        return json.take('}') ? size : std::nullopt;
    }

    Deferred inputs_, outputs_;
    std::string_view body_;
    size_t next_ = 0;  // where the next binary tensor begins
};

}  // namespace accelerator
