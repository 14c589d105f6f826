// The infer requests of the Open Inference Protocol, with Triton's binary tensor data.

#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>

#include "call.h"
#include "result.h"

namespace accelerator {

// Members that have been read, one bit each; a second of a name is declined.
template <typename Member>
class Seen {
  public:
    // Says whether it is the first of its name.
    bool add(Member member) {
        const bool first = !has(member);
        bits_ |= bit(member);
        return first;
    }
    [[nodiscard]] bool has(Member member) const { return bits_ & bit(member); }

  private:
    static constexpr unsigned bit(Member member) { return 1U << static_cast<unsigned>(member); }
    unsigned bits_ = 0;
};

template <typename Member, size_t count>
std::optional<Member> member_of(const std::array<std::string_view, count>& names, std::string_view name) {
    for (size_t index = 0; index < count; ++index)
        if (names[index] == name) return static_cast<Member>(index);
    return std::nullopt;
}

// An output that is asked for.
struct Asked {
    size_t output;
    std::optional<bool> binary;  // as the request says of this one
};

// In any other order than that which clients write, a tensor's name and shape before its data, a request is declined.
class Infer : public Call {
  public:
    std::optional<std::string_view> id;
    size_t asked_count = 0;
    std::array<Asked, MAX_TENSORS> asked;  // in the order of the answer
    bool all_binary = false;               // outputs of which the request does not say it

    // The JSON is the first `size` bytes of the body.
    Declined decode(const Model& model, std::string_view body, size_t size) {
        if (size > body.size()) return Decline::binary;
        body_ = body;
        next_ = size;
        Reader json(body.substr(0, size));
        of(model.signatures[0]);
        if (Declined declined = read_members(json, model)) return declined;
        if (!json.take('}') || !json.at_end()) return Decline::json;
        if (next_ != body.size()) return Decline::binary;
        if (id && id->size() > static_cast<size_t>(model.limits.id)) return Decline::limit;
        if (!asked_count)
            for (; asked_count < signature->output_count; ++asked_count) asked[asked_count] = {asked_count, {}};
        return within(model.limits);
    }
    [[nodiscard]] bool is_binary(const Asked& output) const { return output.binary.value_or(all_binary); }

  private:
    enum class Member : unsigned { id, inputs, outputs, parameters };
    static constexpr std::array<std::string_view, 4> MEMBERS = {"id", "inputs", "outputs", "parameters"};

    Declined read_members(Reader& json, const Model& model) {
        Seen<Member> seen;
        if (!json.take('{')) return Decline::json;
        do {
            const auto key = json.key();
            if (!key) return Decline::json;
            const auto member = member_of<Member>(MEMBERS, *key);
            const bool late = seen.has(Member::inputs) || seen.has(Member::outputs);
            if (!member || !seen.add(*member)) return Decline::member;
            if (Declined declined = read_member(json, *member, model, late)) return declined;
        } while (json.take(','));
        return seen.has(Member::inputs) ? Declined() : Decline::member;
    }

    Declined read_member(Reader& json, Member member, const Model& model, bool late) {
        switch (member) {
            case Member::id: id = json.text(); return id ? Declined() : Decline::member;
            case Member::inputs: return read_inputs(json, model.limits);
            case Member::outputs: return read_outputs(json);
            case Member::parameters: return read_parameters(json, model, late);
        }
        return Decline::member;
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
        int64_t count = 1, binary_size = -1;
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
        return has(Field::parameters) ? take_binary(entry) : Declined();
    }

    Declined read_field(Reader& json, Field field, const Limits& limits, Entry& entry) {
        if (!entry.input && field != Field::name && field != Field::datatype) return Decline::member;  // not in this order
        switch (field) {
            case Field::name:
                if (const auto name = json.text()) entry.input = signature->input(*name);
                return entry.input ? Declined() : Decline::input;
            case Field::datatype:
                if (const auto name = json.text()) entry.datatype = *name;
                return entry.datatype.data() ? Declined() : Decline::input;
            case Field::shape: return read_shape(json, limits, entry);
            case Field::data: return entry.seen.has(Field::shape) ? read_data(json, limits, entry) : Decline::member;
            case Field::parameters:
                if (const auto size = read_parameter<int64_t>(json, "binary_data_size")) entry.binary_size = *size;
                return entry.binary_size < 0 ? Decline::member : Declined();
        }
        return Decline::member;
    }

    Declined read_shape(Reader& json, const Limits& limits, Entry& entry) {
        const Input& input = signature->inputs[*entry.input];
        if (!json.take('[')) return Decline::shape;
        for (size_t axis = 0; axis < input.rank; ++axis) {
            if (axis && !json.take(',')) return Decline::shape;
            const auto size = json.number<int64_t>();
            if (!size || *size < 1) return Decline::shape;
            if (*size > limits.elements / entry.count) return Decline::limit;
            int64_t& wanted = columns[*entry.input].dims[axis];
            if (wanted >= 0 && *size != wanted) return Decline::shape;
            wanted = *size;
            entry.count *= *size;
        }
        return json.take(']') ? Declined() : Decline::shape;
    }

    // Row by row, flat or nested as the shape is.
    Declined read_data(Reader& json, const Limits& limits, Entry& entry) {
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
            wanted.binary = read_parameter<bool>(json, "binary_data");
            if (!wanted.binary) return Decline::member;
        }
        return json.take('}') ? Declined() : Decline::member;
    }

    Declined read_parameters(Reader& json, const Model& model, bool late) {
        enum class Parameter : unsigned { binary_data_output, signature_name };
        constexpr std::array<std::string_view, 2> PARAMETERS = {"binary_data_output", "signature_name"};
        Seen<Parameter> seen;
        if (!json.take('{')) return Decline::json;
        do {
            const auto key = json.key();
            const auto parameter = key ? member_of<Parameter>(PARAMETERS, *key) : std::nullopt;
            if (!parameter || !seen.add(*parameter)) return Decline::member;
            if (*parameter == Parameter::binary_data_output) {
                const auto flag = json.flag();
                if (!flag) return Decline::member;
                all_binary = *flag;
            } else {
                const auto name = json.text();
                const Signature* const called = name ? model.find(*name) : nullptr;
                if (!called || (late && called != signature)) return Decline::signature;
                if (!late) of(*called);
            }
        } while (json.take(','));
        return json.take('}') ? Declined() : Decline::json;
    }

    // Reads an object of one member.
    template <typename T>
    static std::optional<T> read_parameter(Reader& json, std::string_view name) {
        if (!json.take('{') || json.key() != name) return std::nullopt;
        std::optional<T> value;
        if constexpr (std::is_same_v<T, bool>)
            value = json.flag();
        else
            value = json.number<T>();
        return json.take('}') ? value : std::nullopt;
    }

    std::string_view body_;
    size_t next_ = 0;  // where the next binary tensor begins
};

// Writes the answer, binary tensors behind the JSON.
inline Declined encode(const Infer& call, const Model& model, Results& results, Answer& answer) {
    Bytes& json = answer.body;
    bool any_binary = false;
    json.add(model.head);
    if (call.id) {
        json.add(R"(,"id":")");
        json.add(*call.id);
        json.add('"');
    }
    json.add(R"(,"outputs":[)");
    for (size_t index = 0; index < call.asked_count; ++index) {
        const Asked& asked = call.asked[index];
        const bool binary = call.is_binary(asked);
        Result& result = results[asked.output];
        result.as_bytes = false;
        if (!result.all_text && !binary) return Decline::result;
        if (index) json.add(',');
        result.add_tensor(json, call.signature->outputs[asked.output], binary, model.null);
        any_binary = any_binary || binary;
    }
    json.add("]}");
    if (any_binary) {
        answer.json_size = json.size();
        for (size_t index = 0; index < call.asked_count; ++index)
            if (call.is_binary(call.asked[index])) results[call.asked[index].output].add_binary(json);
    }
    return json.ok() ? Declined() : Decline::memory;
}

}  // namespace accelerator
