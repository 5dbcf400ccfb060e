"""Models that are trained: CLIP, timm backbones, LoRA; their weights in and out."""
