"""What a Hugging Face causal LM is made of: sites, surgery, teacher and text."""
