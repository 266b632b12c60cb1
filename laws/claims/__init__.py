"""The papers' claims as data: what each says, which number decides it, and what a study makes of it."""
