#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <string_view>

#include "error.h"
#include "format/json.h"
#include "tokenizer/unicode.h"

namespace ml {
namespace {

constexpr uint64_t kMaxId = 1u << 24;
constexpr const char *kReplacementText = "\xEF\xBF\xBD";

std::string hexadecimal(uint32_t code) {
    char digits[16];
    std::snprintf(digits, sizeof digits, "%04X", static_cast<unsigned>(code));
    return digits;
}

// The byte of a token such as <0x0A>, or -1.
int byte_token(const std::string &token) {
    if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return -1;
    const auto digit = [](char c) {
        const size_t at = std::string_view("0123456789abcdef0123456789ABCDEF").find(c);
        return at == std::string_view::npos ? -1 : static_cast<int>(at % 16);
    };
    return digit(token[3]) < 0 || digit(token[4]) < 0 ? -1 : digit(token[3]) * 16 + digit(token[4]);
}

bool ends_with(const std::string &text, const std::string &end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

void replace_all(std::string &text, const std::string &pattern, const std::string &content) {
    std::string out;
    size_t from = 0;
    for (size_t at; (at = text.find(pattern, from)) != std::string::npos; from = at + pattern.size()) {
        out.append(text, from, at - from);
        out += content;
    }
    text = out.append(text, from, std::string::npos);
}

const std::string &replaced_text(const Json &step) {
    require(step.at("pattern").has("String"), "the tokenizer replaces a regular expression, which this program "
                                              "does not know");
    const std::string &pattern = step.at("pattern").at("String").string("String");
    require(!pattern.empty(), "the tokenizer replaces an empty text");
    return pattern;
}

} // namespace

Tokenizer::Tokenizer(const Json &spec) {
    const Json json = Json::parse(spec.at("json_text").string("json_text"));
    for (const char *key : {"truncation", "padding"})
        require(json.absent(key), "the tokenizer sets ", key, ", which this program does not know");
    model_ = std::make_unique<Bpe>(json.at("model"));
    if (!json.absent("normalizer")) read_normalizer(json.at("normalizer"), 0);
    pre_tokenizer_ = std::make_unique<PreTokenizer>(json.absent("pre_tokenizer") ? Json() : json.at("pre_tokenizer"));
    if (!json.absent("added_tokens")) read_added(json.at("added_tokens"));
    if (!json.absent("post_processor")) read_post_processor(json.at("post_processor"), 0);
    has_decoder_ = !json.absent("decoder");
    if (has_decoder_) read_decoder(json.at("decoder"), 0);
    if (spec.at("add_bos").boolean("add_bos") && !spec.absent("bos_id"))
        bos_ = static_cast<uint32_t>(spec.at("bos_id").whole("bos_id", 0, kMaxId));
    if (!spec.absent("chat_template")) chat_template_ = spec.at("chat_template").string("chat_template");
}

void Tokenizer::read_added(const Json &list) {
    uint64_t highest = 0;
    std::set<std::string> seen;
    for (const Json &token : list.array("added_tokens")) {
        Added added;
        added.content = token.at("content").string("the content of an added token");
        for (const char *key : {"single_word", "lstrip", "rstrip"})
            require(!token.at(key).boolean(key), "the added token ", added.content, " sets ", key,
                    ", which this program does not know");
        added.special = token.at("special").boolean("special");
        added.normalized = token.at("normalized").boolean("normalized");
        added.id = static_cast<uint32_t>(token.at("id").whole("the id of an added token", 0, kMaxId));
        // The library numbers added tokens itself: by the vocabulary, else one beyond all others.
        const int64_t known = model_->id(added.content);
        const uint64_t next = seen.empty() || highest < model_->size() ? model_->size() : highest + 1;
        const uint64_t expected = known >= 0 ? static_cast<uint64_t>(known) : next;
        require(!added.content.empty() && seen.insert(added.content).second, "an added token is empty or repeated");
        require(added.id == expected, "the added token ", added.content, " has the id ", added.id, " where ", expected,
                " follows from the vocabulary");
        highest = std::max(highest, expected);
        added.match = added.normalized ? normalized(added.content) : added.content;
        require(!added.match.empty(), "nothing is left of the added token ", added.content, " in its normal form");
        added_.push_back(std::move(added));
    }
    std::stable_sort(added_.begin(), added_.end(),
                     [](const Added &a, const Added &b) { return a.match.size() > b.match.size(); });
}

void Tokenizer::read_normalizer(const Json &json, int depth) {
    const std::string &type = json.at("type").string("normalizer type");
    if (type == "Sequence") {
        require(depth < 4, "the tokenizer's sequences of normalizers nest too deep");
        for (const Json &part : json.at("normalizers").array("normalizers")) read_normalizer(part, depth + 1);
    } else if (type == "Prepend") {
        normalizer_.push_back({Step::Kind::prepend, "", json.at("prepend").string("prepend")});
    } else if (type == "Replace") {
        normalizer_.push_back({Step::Kind::replace, replaced_text(json), json.at("content").string("content")});
    } else if (type == "NFC") {
        normalizer_.push_back({Step::Kind::compose, "", ""});
    } else {
        throw Error(text("the tokenizer's normalizer ", type, " is not known to this program"));
    }
}

void Tokenizer::read_post_processor(const Json &json, int depth) {
    const std::string &type = json.at("type").string("post_processor type");
    if (type == "Sequence") {
        require(depth < 4, "the tokenizer's sequences of post-processors nest too deep");
        for (const Json &part : json.at("processors").array("processors")) read_post_processor(part, depth + 1);
    } else if (type == "TemplateProcessing") {
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
    } else {
        require(type == "ByteLevel", "the tokenizer's post-processor ", type, " is not known to this program");
    }
}

void Tokenizer::read_decoder(const Json &json, int depth) {
    const std::string &type = json.at("type").string("decoder type");
    if (type == "Sequence") {
        require(depth < 4, "the tokenizer's sequences of decoders nest too deep");
        for (const Json &part : json.at("decoders").array("decoders")) read_decoder(part, depth + 1);
    } else if (type == "Replace") {
        decoder_.push_back({Step::Kind::replace, replaced_text(json), json.at("content").string("content")});
    } else if (type == "ByteFallback") {
        decoder_.push_back({Step::Kind::byte_fallback, "", ""});
    } else if (type == "Fuse") {
        decoder_.push_back({Step::Kind::fuse, "", ""});
    } else if (type == "Strip") {
        const std::string &content = json.at("content").string("content");
        require(!content.empty() && character_at(content, 0).bytes == content.size() &&
                    json.at("stop").whole("stop", 0, kMaxId) == 0,
                "the tokenizer's decoder strips more than characters at the start");
        decoder_.push_back({Step::Kind::strip, content, "", json.at("start").whole("start", 0, kMaxId)});
    } else {
        require(type == "ByteLevel", "the tokenizer's decoder ", type, " is not known to this program");
        decoder_.push_back({Step::Kind::byte_level, "", ""});
    }
}

std::string Tokenizer::normalized(std::string text) const {
    for (const Step &step : normalizer_) {
        switch (step.kind) {
        case Step::Kind::prepend:
            if (!text.empty()) text.insert(0, step.content);
            break;
        case Step::Kind::replace: replace_all(text, step.pattern, step.content); break;
        default:
            for (size_t at = 0; at < text.size();) {
                const Character c = character_at(text, at);
                require(!may_compose(c.code), "the text holds U+", hexadecimal(c.code),
                        ", which the model's normal form NFC may change, and this program has no tables for that");
                at += c.bytes;
            }
        }
    }
    return text;
}

// Added tokens come out of a text before anything else happens to it: at each place the longest.
std::vector<Tokenizer::Piece> Tokenizer::cut_out(const std::string &text, bool normalized) const {
    std::vector<Piece> pieces;
    size_t begin = 0;
    const auto rest = [&](size_t end) {
        if (end > begin) pieces.push_back({text.substr(begin, end - begin)});
    };
    for (size_t at = 0; at < text.size();) {
        const auto found = std::find_if(added_.begin(), added_.end(), [&](const Added &added) {
            return added.normalized == normalized && added.match[0] == text[at] &&
                   text.compare(at, added.match.size(), added.match) == 0;
        });
        if (found == added_.end()) {
            at++;
            continue;
        }
        rest(at);
        pieces.push_back({found->match, found->id});
        begin = at += found->match.size();
    }
    rest(text.size());
    return pieces;
}

std::vector<uint32_t> Tokenizer::encode(const std::string &text, bool special) const {
    std::vector<uint32_t> ids;
    if (special) ids = before_;
    for (const Piece &outer : cut_out(text, false)) {
        if (outer.id >= 0) {
            ids.push_back(static_cast<uint32_t>(outer.id));
            continue;
        }
        for (const Piece &piece : cut_out(normalized(outer.text), true)) {
            if (piece.id >= 0) {
                ids.push_back(static_cast<uint32_t>(piece.id));
            } else {
                for (const std::string &word : pre_tokenizer_->split(piece.text)) model_->encode(word, ids);
            }
        }
    }
    if (!special) return ids;
    ids.insert(ids.end(), after_.begin(), after_.end());
    if (bos_ && (ids.empty() || ids.front() != *bos_)) ids.insert(ids.begin(), *bos_);
    return ids;
}

// Templates are programs, which this one does not run. It knows two by heart: ChatML, and ChatML with a system message
// of its own where the messages begin with none.
std::vector<uint32_t> Tokenizer::chat(const std::string &prompt, const std::optional<std::string> &system) const {
    require(chat_template_.has_value(), "this artifact carries no chat template; run it without --chat");
    const std::string turns = "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
                              "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    const std::string loop = "{% for message in messages %}";
    const std::string first = loop + "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n";
    const std::string last = "<|im_end|>\\n' }}{% endif %}" + turns;
    std::string known = *chat_template_;
    // Inside the quotes of a template, \n and a line end are the same.
    replace_all(known, "\n", "\\n");
    std::optional<std::string> own;
    if (known.size() > first.size() + last.size() && known.compare(0, first.size(), first) == 0 &&
        ends_with(known, last)) {
        own = known.substr(first.size(), known.size() - first.size() - last.size());
        // What a quoted text may hold besides itself.
        if (own->find_first_of("'\\{}") != std::string::npos) own.reset();
    }
    require(own || known == loop + turns,
            "this artifact's chat template is none that this program knows (ChatML); use mobileloop run, or give the "
            "tokens with --tokens");
    require(!system || own, "this artifact's chat template has no system message; run it without --system");
    std::string whole;
    if (own) whole = "<|im_start|>system\n" + (system ? *system : *own) + "<|im_end|>\n";
    whole += "<|im_start|>user\n" + prompt + "<|im_end|>\n<|im_start|>assistant\n";
    return encode(whole, false);
}

std::string Tokenizer::decode(const std::vector<uint32_t> &ids) const {
    std::vector<std::string> tokens;
    for (const uint32_t id : ids) {
        const auto added = std::find_if(added_.begin(), added_.end(), [&](const Added &a) { return a.id == id; });
        const std::string *token = added != added_.end() ? &added->content : model_->token(id);
        if (token && (added == added_.end() || !added->special)) tokens.push_back(*token);
    }
    std::string out;
    for (const Step &step : decoder_) decode_step(step, tokens);
    for (size_t i = 0; i < tokens.size(); i++) {
        if (i && !has_decoder_) out += ' ';
        out += tokens[i];
    }
    return out;
}

void Tokenizer::decode_step(const Step &step, std::vector<std::string> &tokens) const {
    std::string whole;
    switch (step.kind) {
    case Step::Kind::replace:
        for (std::string &token : tokens) replace_all(token, step.pattern, step.content);
        return;
    case Step::Kind::strip:
        for (std::string &token : tokens)
            for (size_t i = 0; i < step.count && token.compare(0, step.pattern.size(), step.pattern) == 0; i++)
                token.erase(0, step.pattern.size());
        return;
    case Step::Kind::fuse:
        for (const std::string &token : tokens) whole += token;
        tokens = {whole};
        return;
    case Step::Kind::byte_fallback: {
        std::vector<std::string> out;
        std::string bytes;
        const auto flush = [&] {
            if (bytes.empty()) return;
            if (is_utf8(bytes)) {
                out.push_back(bytes);
            } else {
                out.insert(out.end(), bytes.size(), kReplacementText);
            }
            bytes.clear();
        };
        for (const std::string &token : tokens) {
            const int byte = byte_token(token);
            if (byte >= 0) {
                bytes += static_cast<char>(byte);
            } else {
                flush();
                out.push_back(token);
            }
        }
        flush();
        tokens.swap(out);
        return;
    }
    default:
        for (const std::string &token : tokens) {
            std::string bytes;
            for (size_t at = 0; at < token.size();) {
                const Character c = character_at(token, at);
                const int byte = c.valid ? byte_of_stand_in(c.code) : -1;
                if (byte < 0) { // not of the byte-level vocabulary: the token is its own text
                    bytes = token;
                    break;
                }
                bytes += static_cast<char>(byte);
                at += c.bytes;
            }
            whole += bytes;
        }
        tokens = {lossy_utf8(whole)};
    }
}

std::string TextStream::push(uint32_t id) {
    if (shown_.empty() && !ids_.empty()) {
        std::string text = tokenizer_.decode(ids_);
        if (!ends_with(text, kReplacementText)) {
            shown_ = std::move(text);
            settled_ = ids_.size();
        }
    }
    ids_.push_back(id);
    const std::string text = tokenizer_.decode(ids_);
    if (text.size() <= shown_.size() || ends_with(text, kReplacementText)) return "";
    require(text.compare(0, shown_.size(), shown_) == 0, "the text of the tokens so far changed with the next one");
    std::string piece = text.substr(shown_.size());
    ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(settled_));
    settled_ = ids_.size();
    shown_ = tokenizer_.decode(ids_);
    return piece;
}

} // namespace ml
