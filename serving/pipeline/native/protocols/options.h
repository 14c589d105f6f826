// What a request asks for besides the run of a signature: in the query of its address, or in "parameters" of its body.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "../model.h"
#include "../reader.h"

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

struct Options {
    std::optional<std::string_view> signature_name, scores;
    int64_t top_k = 0;  // 0: the outputs themselves

    // Says whether the address, or the parameters of a predict body, name another signature than the one that is called.
    [[nodiscard]] bool names_another(const Model& model, const Signature& called) const {
        return signature_name && !signature_name->empty() && model.find(*signature_name) != &called;
    }
    // Adds those of a predict body. One that stands in the address, too, is declined: the two may differ.
    Declined read_parameters(Reader& json) {
        enum class Parameter : unsigned { signature_name, scores, top_k };
        constexpr std::array<std::string_view, 3> PARAMETERS = {"signature_name", "scores", "top_k"};
        if (json.null()) return {};
        if (!json.take('{')) return Decline::member;
        if (json.take('}')) return {};
        do {
            const auto key = json.key();
            const auto parameter = key ? member_of<Parameter>(PARAMETERS, *key) : std::nullopt;
            if (!parameter) return Decline::member;
            if (*parameter == Parameter::top_k) {
                const auto count = json.number<int64_t>();
                if (top_k || !count || *count < 1 || *count > MOST_CLASSES) return Decline::member;
                top_k = *count;
            } else {
                auto& text = *parameter == Parameter::scores ? scores : signature_name;
                if (text || !(text = json.text())) return Decline::member;
            }
        } while (json.take(','));
        return json.take('}') ? Declined() : Decline::json;
    }

  private:
    static constexpr int64_t MOST_CLASSES = 999'999'999;
};

}  // namespace accelerator
