// What happens to a text before it is cut into words, as the `tokenizers` library's normalizers do it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tokenizer/aligned_text.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/normal_form.h"
#include "tokenizer/steps.h"

namespace ml {

class Normalizer {
public:
    // The `normalizer` of a tokenizer's JSON, or null. Throws ml::Error for what this reader does not do exactly.
    explicit Normalizer(const Json &json);

    void apply(AlignedText &text) const;
    std::string apply(const std::string &text) const;

private:
    struct Step {
        enum class Kind { prepend, replace, form, charsmap, strip, strip_accents, lowercase, nmt, byte_level } kind;
        std::string content;
        Pattern pattern;
        NormalForm form;
        std::shared_ptr<const Charsmap> charsmap;
        bool left = false, right = false;
    };
    static Step step_of(const Json &json, const std::string &type);
    static void apply(const Step &step, AlignedText &text);

    std::vector<Step> steps_;
};

} // namespace ml
