"""Read the exports that tests/support/exports.py wrote, with optimum-intel alone: `read_exports.py DIR`."""

import json
import sys
from pathlib import Path

import torch
from optimum.intel import OVModelForCausalLM, OVModelForFeatureExtraction, OVStableDiffusionPipeline
from transformers import AutoTokenizer

folder = Path(sys.argv[1])
for name, kind in (("llama", OVModelForCausalLM), ("bert", OVModelForFeatureExtraction)):
    found = json.loads((folder / f"{name}.json").read_text())
    model = kind.from_pretrained(
        folder / name, ov_config={"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / name, padding_side="left")
    given = tokenizer(found["texts"], padding=True, return_tensors="pt", return_token_type_ids=False)
    expected = torch.tensor(found["expected"])
    if name == "llama":
        tokens = expected.shape[1] - given["input_ids"].shape[1]
        answer = model.generate(**given, max_new_tokens=tokens, do_sample=False)
        is_right = torch.equal(answer, expected)
    else:
        answer = model(**given).last_hidden_state
        rows = given["attention_mask"].bool()
        is_right = torch.allclose(answer[rows], expected[rows], atol=1e-3)
    if not is_right:
        raise SystemExit(f"{name}: expected {expected}, got {answer}")
    print(f"{name}: as torch")

found = json.loads((folder / "diffusion.json").read_text())
pipeline = OVStableDiffusionPipeline.from_pretrained(
    folder / "diffusion", ov_config={"INFERENCE_PRECISION_HINT": "f32"}
)
image = pipeline(found["texts"], **found["size"], latents=torch.tensor(found["latents"]), output_type="np").images
expected = torch.tensor(found["expected"])
if not torch.allclose(torch.from_numpy(image), expected, atol=1e-3):
    raise SystemExit(f"diffusion: expected {expected}, got {image}")
print("diffusion: as torch")
