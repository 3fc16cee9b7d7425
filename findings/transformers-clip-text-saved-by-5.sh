#!/bin/sh
# transformers 5.23.0: a CLIP text encoder that it saves is another one for transformers 4.
#
# Expected: a text encoder of Stable Diffusion that is loaded and saved again has the tensor names of the published folders,
# text_model.embeddings.. and text_model.encoder.., and every program that reads those folders reads it.
# Seen: the saved file has the same tensors without text_model. before their names. transformers 4.57.3 finds none of its own there, says
# in a warning that weights were newly initialized, and gives a text encoder of random numbers, with exit status 0.
#
# Output: 5.23.0 saves embeddings.position_embedding.weight /
#         4.57.3 loads another network: largest difference of a hidden state 3.8 (its weights are random)
# Exits with 0 while this is so.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
"$place/venv/bin/pip" install --quiet --disable-pip-version-check --target "$place/five" --no-warn-conflicts transformers==5.23.0
"$place/venv/bin/pip" install --quiet --disable-pip-version-check --target "$place/four" --no-warn-conflicts transformers==4.57.3
cd "$place"
PYTHONPATH="$place/five" "$place/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

torch.manual_seed(0)
sizes = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=2, vocab_size=100, max_position_embeddings=8,
             bos_token_id=98, eos_token_id=99, pad_token_id=0)
net = CLIPTextModel(CLIPTextConfig(**sizes)).eval()
net.save_pretrained("saved")
print(transformers.__version__, "saves", min(load_file("saved/model.safetensors")))
with torch.no_grad():
    torch.save(net(input_ids=torch.tensor([[98, 5, 7, 99]])).last_hidden_state, "wanted.pt")
assert not any(name.startswith("text_model.") for name in load_file("saved/model.safetensors")), "the behaviour has changed"
PYTHON
PYTHONPATH="$place/four" "$place/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import CLIPTextModel

net = CLIPTextModel.from_pretrained("saved").eval()
with torch.no_grad():
    made = net(input_ids=torch.tensor([[98, 5, 7, 99]])).last_hidden_state
off = (made - torch.load("wanted.pt", weights_only=True)).abs().max().item()
print(f"{transformers.__version__} loads another network: largest difference of a hidden state {off:.1f}")
assert off > 0.1, "the behaviour has changed"
PYTHON
