"""CoPR: a retrieval map densified in descriptor space (Zaffar et al., "CoPR", IEEE T-RO 2023). See ``README.md``."""
