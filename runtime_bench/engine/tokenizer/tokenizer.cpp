#include "tokenizer/tokenizer.h"

#include <algorithm>

#include "error.h"
#include "format/json.h"

namespace ml {
namespace {

bool ends_with(const std::string &text, const std::string &end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

void replace_all(std::string &text, const std::string &pattern, const std::string &content) {
    for (size_t at = 0; (at = text.find(pattern, at)) != std::string::npos; at += content.size())
        text.replace(at, pattern.size(), content);
}

// A text without the white space at its ends, as Python and so templates have it.
std::string stripped(const std::string &text) {
    size_t begin = text.size(), end = 0;
    for (size_t at = 0; at < text.size();) {
        const Character c = character_at(text, at);
        if (!is_space(c.code) && !(c.code >= 0x1C && c.code <= 0x1F)) {
            begin = std::min(begin, at);
            end = at + c.bytes;
        }
        at += c.bytes;
    }
    return begin < end ? text.substr(begin, end - begin) : "";
}

// The conversation in ChatML, if that is what the template says to the letter.
std::optional<std::string> chatml(std::string known, const std::string &prompt,
                                  const std::optional<std::string> &system) {
    const std::string turns = "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
                              "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    const std::string loop = "{% for message in messages %}";
    const std::string first = loop + "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n";
    const std::string last = "<|im_end|>\\n' }}{% endif %}" + turns;
    // Inside the quotes of a template, \n and a line end are the same.
    replace_all(known, "\n", "\\n");
    std::string whole;
    if (known.size() > first.size() + last.size() && known.compare(0, first.size(), first) == 0 &&
        ends_with(known, last)) {
        const std::string own = known.substr(first.size(), known.size() - first.size() - last.size());
        // What a quoted text may hold besides itself.
        if (own.find_first_of("'\\{}") != std::string::npos) return std::nullopt;
        whole = "<|im_start|>system\n" + system.value_or(own) + "<|im_end|>\n";
    } else if (known != loop + turns || system) {
        return std::nullopt;
    }
    return whole + "<|im_start|>user\n" + prompt + "<|im_end|>\n<|im_start|>assistant\n";
}

// Characters of a text.
size_t count_of(const std::string &text) {
    size_t count = 0;
    for (size_t at = 0; at < text.size(); count++) at += character_at(text, at).bytes;
    return count;
}

const Json &part_of(const Json &json, const char *key) {
    static const Json none;
    return json.absent(key) ? none : json.at(key);
}

} // namespace

Tokenizer::Tokenizer(const Json &spec) : Tokenizer(spec, Json::parse(spec.at("json_text").string("json_text"))) {}

// Truncation and padding that a tokenizer was saved with never touch a prompt.
Tokenizer::Tokenizer(const Json &spec, const Json &json)
    : model_(read_model(json.at("model"))), normalizer_(part_of(json, "normalizer")),
      added_(part_of(json, "added_tokens"), *model_, normalizer_), pre_tokenizer_(part_of(json, "pre_tokenizer")),
      decoder_(part_of(json, "decoder")) {
    if (!spec.absent("sentencepiece")) {
        form_.emplace(spec.at("sentencepiece"));
        unigram_ = dynamic_cast<Unigram *>(model_.get());
        if (unigram_) unigram_->round_as_sentencepiece(form_->kept());
    }
    if (!json.absent("post_processor")) read_post_processor(json.at("post_processor"));
    if (spec.at("add_bos").boolean("add_bos") && !spec.absent("bos_id"))
        bos_ = static_cast<uint32_t>(spec.at("bos_id").whole("bos_id", 0, kMaxId));
    if (!spec.absent("chat_template")) chat_template_ = spec.at("chat_template").string("chat_template");
    if (!spec.absent("turns")) read_turns(spec.at("turns"));
}

void Tokenizer::read_turns(const Json &json) {
    turns_ = Turns{json.at("before").string("before"), "", json.at("after").string("after"), false,
                   json.at("trims").boolean("trims")};
    if (json.absent("system")) return;
    const Json &system = json.at("system");
    system_turns_ = Turns{system.at("before").string("before"), system.at("between").string("between"),
                          system.at("after").string("after"), system.at("trims_system").boolean("trims_system"),
                          system.at("trims_user").boolean("trims_user")};
}

void Tokenizer::read_post_processor(const Json &whole) {
    for_each_part(whole, "processors", "post-processor", [&](const Json &json, const std::string &type) {
        if (type == "ByteLevel") return; // only changes where tokens begin and end
        require(type == "TemplateProcessing", "the tokenizer's post-processor ", type, " is not known to this program");
        std::vector<uint32_t> before, after;
        bool behind = false;
        for (const Json &part : json.at("single").array("single")) {
            if (part.has("Sequence")) {
                require(!behind && part.at("Sequence").at("id").string("id") == "A",
                        "the tokenizer's template repeats the text, or names another one");
                behind = true;
                continue;
            }
            const std::string &name = part.at("SpecialToken").at("id").string("id");
            for (const Json &id : json.at("special_tokens").at(name).at("ids").array("ids"))
                (behind ? after : before).push_back(static_cast<uint32_t>(id.whole("a special token's id", 0, kMaxId)));
        }
        require(behind, "the tokenizer's template leaves the text out");
        before_.insert(before_.begin(), before.begin(), before.end()); // of a later template: around the earlier one's
        after_.insert(after_.end(), after.begin(), after.end());
    });
}

std::vector<uint32_t> Tokenizer::encode(const std::string &text, bool special) const {
    std::vector<uint32_t> ids;
    if (special) ids = before_;
    if (form_) {
        encode_pieces(text, ids);
    } else {
        encode_text(text, false, ids);
    }
    if (!special) return ids;
    ids.insert(ids.end(), after_.begin(), after_.end());
    if (bos_) ids.insert(ids.begin(), *bos_);
    return ids;
}

void Tokenizer::encode_text(const std::string &text, bool keeps_special, std::vector<uint32_t> &ids) const {
    for (AddedTokens::Piece &outer : added_.cut_out(AlignedText(text), false, keeps_special)) {
        if (outer.id >= 0) {
            ids.push_back(static_cast<uint32_t>(outer.id));
            continue;
        }
        normalizer_.apply(outer.text);
        for (const AddedTokens::Piece &piece : added_.cut_out(outer.text, true, keeps_special)) {
            if (piece.id >= 0) {
                ids.push_back(static_cast<uint32_t>(piece.id));
            } else {
                for (const std::string &word : pre_tokenizer_.split(piece.text)) model_->encode(word, ids);
            }
        }
    }
}

// Added tokens come out of the text first; what is between them gets SentencePiece's normal form.
void Tokenizer::encode_pieces(const std::string &text, std::vector<uint32_t> &ids) const {
    bool first = true;
    const auto outer = [&](const std::string &content) { return !form_->keeps(content); };
    for (const AddedTokens::Piece &piece : added_.cut_out_whole(text, outer)) {
        if (piece.id >= 0) {
            ids.push_back(static_cast<uint32_t>(piece.id));
        } else {
            const std::string normal = form_->applied(piece.text.text(), first);
            if (unigram_) {
                model_->encode(normal, ids);
            } else {
                encode_text(normal, true, ids);
            }
        }
        first = false;
    }
}

// Templates are programs, which this one does not run. The exporter has found out what most of them come to for turns
// that are not blank; of the others, and in older artifacts, ChatML is known by heart, with a system message of its own
// where the messages begin with none, or without.
std::vector<uint32_t> Tokenizer::chat(const std::string &prompt, const std::optional<std::string> &system) const {
    require(chat_template_.has_value(), "this artifact carries no chat template; run it without --chat");
    const auto &turns = system ? system_turns_ : turns_;
    const std::string user = stripped(prompt), first = stripped(system.value_or("x"));
    if (turns && !user.empty() && !first.empty()) {
        std::string whole = turns->before;
        if (system) whole += (turns->trims_system ? first : *system) + turns->between;
        return encode(whole + (turns->trims_user ? user : prompt) + turns->after, false);
    }
    const std::optional<std::string> known = chatml(*chat_template_, prompt, system);
    require(known || !system || !turns_, "this artifact's chat template has no system message that this program could "
                                         "put in; use mobileloop run, or run it without --system");
    require(known.has_value(),
            "this artifact's chat template does more than to put turns between fixed texts, which is "
            "all that this program can do; use mobileloop run, or give the tokens with --tokens");
    return encode(*known, false);
}

const std::string *Tokenizer::token(uint32_t id) const {
    const std::string *token = added_.token(id);
    if (!token) token = model_->token(id);
    return token && !added_.is_special(*token) ? token : nullptr;
}

Decoder::Text Tokenizer::decoded(const std::vector<uint32_t> &ids) const {
    std::vector<std::string> tokens;
    for (const uint32_t id : ids)
        if (const std::string *known = token(id)) tokens.push_back(*known);
    return decoder_.decode(std::move(tokens));
}

TextStream::TextStream(const Tokenizer &tokenizer, std::vector<uint32_t> behind)
    : tokenizer_(tokenizer), ids_(std::move(behind)), skip_(count_of(tokenizer.decode(ids_))) {}

std::string TextStream::push(uint32_t id) {
    const std::string *token = tokenizer_.token(id);
    if (!token) return "";
    ids_.push_back(id);
    if (tokenizer_.decoder().keeps_open(*token)) return "";
    Decoder::Text now = tokenizer_.decoded(ids_);
    if (now.open) return "";
    std::string piece = now.text.substr(std::min(shown_.size(), now.text.size()));
    shown_ = std::move(now.text);
    // What comes next is decoded behind the last tokens only, if there is a text to tell it from.
    const std::vector<uint32_t> tail(ids_.begin() + static_cast<std::ptrdiff_t>(settled_), ids_.end());
    std::string tail_text = tokenizer_.decode(tail);
    if (!tail_text.empty()) {
        ids_ = tail;
        shown_ = std::move(tail_text);
        kept_ = 0;
    } else {
        // A text of nothing, such as a space at the beginning, is told by what stands before it.
        if (!kept_) kept_ = context();
        if (kept_ && kept_ < settled_) {
            const auto begin = ids_.begin();
            ids_.erase(begin + static_cast<std::ptrdiff_t>(kept_), begin + static_cast<std::ptrdiff_t>(settled_));
            shown_ = tokenizer_.decode(ids_);
        }
    }
    settled_ = ids_.size();
    return beyond_prompt(std::move(piece));
}

// Tries beginnings of twice the length each, so that all of them together are no longer than a few windows.
size_t TextStream::context() const {
    const Decoder &decoder = tokenizer_.decoder();
    const auto open = [&](uint32_t id) {
        const std::string *token = tokenizer_.token(id);
        return !token || decoder.keeps_open(*token);
    };
    for (size_t count = 1; count < ids_.size(); count *= 2) {
        while (count < ids_.size() && open(ids_[count - 1])) count++;
        if (!decoder.strips_text()) return count;
        if (!tokenizer_.decode({ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(count)}).empty()) return count;
    }
    return shown_.empty() ? 0 : ids_.size();
}

std::string TextStream::flush() {
    const std::string text = tokenizer_.decode(ids_);
    return beyond_prompt(text.substr(std::min(shown_.size(), text.size())));
}

std::string TextStream::beyond_prompt(std::string piece) {
    size_t cut = 0;
    for (; skip_ > 0 && cut < piece.size(); skip_--) cut += character_at(piece, cut).bytes;
    return piece.erase(0, cut);
}

} // namespace ml
