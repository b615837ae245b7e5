"""Chat with the persisted language model: the half without PyTorch.

By default OpenVINO GenAI's pipeline generates (extra `genai`). With `--greedy`, numpy decodes token by token in a
session, with the package `tokenizers`.
"""

from __future__ import annotations

import argparse

import numpy as np

import npu_persist as npup

QUESTION = "What is the capital of France?"
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
"""What this model's chat template makes of a question, without its system prompt."""


def decode(model: npup.Model, ids: list[int], end: int | None, longest: int) -> list[int]:
    """Return the most likely tokens that follow, up to the one that ends an answer."""
    made: list[int] = []
    tokens, count = np.array([ids]), 0
    with model.session() as session:
        while len(made) < longest:
            positions = np.arange(count, count + tokens.shape[1])[None]
            count += tokens.shape[1]
            logits = session(tokens, np.ones((1, count), np.int64), positions, np.zeros(1, np.int32)).logits
            tokens = logits[:, -1:].argmax(-1)
            if tokens[0, 0] == end:
                break
            made.append(int(tokens[0, 0]))
    return made


def main() -> None:
    """Print the answer and the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--device", default="CPU", help="NPU, GPU, CPU")
    parser.add_argument("--greedy", action="store_true", help="decode with numpy, without OpenVINO GenAI")
    parser.add_argument(
        "--max-new-tokens", type=int, default=50, help="largest number of generated tokens (default: %(default)s)"
    )
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    if options.greedy:
        from tokenizers import Tokenizer

        with npup.load("chat", device=options.device, store=options.store) as model:
            tokenizer = Tokenizer.from_file(str(model.bundle.asset("tokenizer.json")))
            ids = tokenizer.encode(CHAT.format(options.question)).ids
            end = tokenizer.token_to_id("<|im_end|>")
            answer = tokenizer.decode(decode(model, ids, end, options.max_new_tokens))
            report = model.report
    else:
        pipe = npup.pipeline("chat", device=options.device, store=options.store)
        answer = str(pipe.generate(options.question, max_new_tokens=options.max_new_tokens))
        report = pipe.report
    print(answer)
    print(report)
    if options.question == QUESTION:
        assert "Paris" in answer, answer


if __name__ == "__main__":
    main()
