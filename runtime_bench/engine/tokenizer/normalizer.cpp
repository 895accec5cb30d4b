#include "tokenizer/normalizer.h"

#include "tokenizer/pieces.h"

namespace ml {
namespace {

void strip(AlignedText &text, bool left, bool right) {
    std::vector<AlignedText::Change> changes;
    text.for_each([&](uint32_t code) { changes.push_back({code, 0}); });
    const size_t count = changes.size();
    size_t leading = 0;
    while (left && leading < count && is_space(changes[leading].code)) leading++;
    changes.erase(changes.begin(), changes.begin() + static_cast<std::ptrdiff_t>(leading));
    while (right && !changes.empty() && is_space(changes.back().code)) changes.pop_back();
    if (changes.size() < count) text.transform(changes, leading);
}

// What SentencePiece's rules of the name nmt do before all others.
void tidy(AlignedText &text) {
    text.filter([](uint32_t code) {
        return !((code >= 1 && code <= 8) || code == 0xB || (code >= 0xE && code <= 0x1F) || code == 0x7F ||
                 code == 0x8F || code == 0x9F);
    });
    std::vector<AlignedText::Change> changes;
    text.for_each([&](uint32_t code) {
        const bool space = code == 9 || code == 0xA || code == 0xC || code == 0xD || code == 0x1680 ||
                           (code >= 0x200B && code <= 0x200F) || code == 0x2028 || code == 0x2029 || code == 0x2581 ||
                           code == 0xFEFF || code == 0xFFFD;
        changes.push_back({space ? ' ' : code, 0});
    });
    text.transform(changes);
}

} // namespace

Normalizer::Normalizer(const Json &json) {
    if (json.kind() == Json::Kind::null) return;
    for_each_part(json, "normalizers", "normalizer",
                  [&](const Json &part, const std::string &type) { steps_.push_back(step_of(part, type)); });
}

Normalizer::Step Normalizer::step_of(const Json &json, const std::string &type) {
    Step step{};
    if (type == "Prepend") {
        step.kind = Step::Kind::prepend;
        step.content = json.at("prepend").string("prepend");
        require(!step.content.empty(),
                "the tokenizer's normalizer Prepend puts nothing in front of a text, at which the "
                "tokenizers library fails");
    } else if (type == "Replace") {
        step.kind = Step::Kind::replace;
        step.pattern = Pattern(json.at("pattern"));
        step.content = json.at("content").string("content");
    } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
        step.kind = Step::Kind::form;
        step.form = {type.size() == 4, type.back() == 'C'};
    } else if (type == "Precompiled") {
        step.kind = Step::Kind::charsmap;
        step.charsmap = std::make_shared<Charsmap>(json.at("precompiled_charsmap").string("precompiled_charsmap"));
    } else if (type == "Strip") {
        step.kind = Step::Kind::strip;
        step.left = json.at("strip_left").boolean("strip_left");
        step.right = json.at("strip_right").boolean("strip_right");
    } else if (type == "StripAccents") {
        step.kind = Step::Kind::strip_accents;
    } else if (type == "Lowercase") {
        step.kind = Step::Kind::lowercase;
    } else if (type == "Nmt") {
        step.kind = Step::Kind::nmt;
    } else {
        require(type == "ByteLevel", "the tokenizer's normalizer ", type, " is not known to this program");
        step.kind = Step::Kind::byte_level;
    }
    return step;
}

void Normalizer::apply(AlignedText &text) const {
    for (const Step &step : steps_) apply(step, text);
}

std::string Normalizer::apply(const std::string &text) const {
    if (steps_.empty()) return text;
    AlignedText changed(text);
    apply(changed);
    return std::move(changed).take();
}

void Normalizer::apply(const Step &step, AlignedText &text) {
    switch (step.kind) {
    case Step::Kind::prepend: return text.prepend(step.content);
    case Step::Kind::replace: return text.replace(step.pattern.find(text.text()), step.content);
    case Step::Kind::form: return to_normal_form(text, step.form);
    case Step::Kind::charsmap: return step.charsmap->apply(text);
    case Step::Kind::strip: return strip(text, step.left, step.right);
    case Step::Kind::strip_accents: return text.filter([](uint32_t code) { return !is_mark(code); });
    case Step::Kind::lowercase: return to_lowercase(text);
    case Step::Kind::nmt: return tidy(text);
    case Step::Kind::byte_level: return to_stand_ins(text);
    }
}

} // namespace ml
