// Unicode's normal forms and lower case, as the `tokenizers` library has them.
#pragma once

#include "tokenizer/aligned_text.h"

namespace ml {

struct NormalForm {
    bool compatible = false; // KC and KD
    bool composed = false;   // C and KC
};

void to_normal_form(AlignedText &text, NormalForm form);
void to_lowercase(AlignedText &text);

} // namespace ml
