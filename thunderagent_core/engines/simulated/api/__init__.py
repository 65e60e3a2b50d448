"""The four generation APIs: request bodies to conversations, generated pieces to what each API sends."""
