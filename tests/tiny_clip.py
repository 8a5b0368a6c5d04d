"""A CLIPModel of transformers with random weights, small enough for a test."""

import pathlib
import shutil

DIM = 20
TOKENIZER = pathlib.Path(__file__).parents[1] / 'i2vgen_jax/demo/tokenizer'


def write(folder):
  """Saves the model and its tokenizer into an existing folder; returns the model."""
  import torch
  import transformers

  for file in TOKENIZER.iterdir():
    shutil.copy(file, folder)
  tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder))
  text = dict(
    vocab_size=len(tokenizer), hidden_size=24, intermediate_size=40, num_hidden_layers=2,
    num_attention_heads=4, max_position_embeddings=16, eos_token_id=tokenizer.eos_token_id,
    bos_token_id=tokenizer.bos_token_id, hidden_act='quick_gelu',
  )  # fmt: skip
  vision = dict(
    hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    patch_size=16, image_size=32, hidden_act='quick_gelu',
  )  # fmt: skip
  torch.manual_seed(0)
  config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM)
  model = transformers.CLIPModel(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  model.save_pretrained(folder)
  return model
