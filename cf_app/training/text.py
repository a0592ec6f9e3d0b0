"""The small text encoder of the embedded student: a word-level fast tokenizer and a two-layer UMT5 encoder.

It is trained together with the transformer. Words it does not know become one token, <unk>; the app names them.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from .grammar import vocabulary

SPECIAL = ("<pad>", "</s>", "<unk>")
MAX_LENGTH = 24


def embedded_tokenizer(words: Sequence[str] = vocabulary()) -> PreTrainedTokenizerFast:
    """Lower-cases, drops punctuation, splits at spaces, ends with </s>."""
    table = {token: i for i, token in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=MAX_LENGTH)


def embedded_text_encoder(vocabulary_size: int) -> UMT5EncoderModel:
    """128 wide, two layers, four heads."""
    return UMT5EncoderModel(UMT5Config(
        vocab_size=vocabulary_size, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0,
        is_encoder_decoder=False, pad_token_id=0, eos_token_id=1))


def save_text(folder: Path, tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel) -> None:
    """Writes `tokenizer/` and `text_encoder/` as every transformers release reads them."""
    tokenizer.save_pretrained(folder / "tokenizer")
    config = folder / "tokenizer" / "tokenizer_config.json"
    config.write_text(config.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    encoder.save_pretrained(folder / "text_encoder")
