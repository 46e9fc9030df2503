"""Which tests begin first."""

LONGEST = (
    "test_gpu_stand_in.py",
    "test_docs.py",
    "test_notebooks.py",
    "test_packaging.py",
    "test_collection.py",
    "test_transformers_epochs.py",
    "test_compiled.py",
    "test_contract_compiled.py",
    "test_contract_optax.py",
    "test_contract_torch.py",
    "test_ray.py",
    "test_kill.py",
    "test_torchrun.py",
    "test_compare.py",
    "test_lightning_epochs.py",
    "test_paper_tasks.py",
    "test_examples.py",
    "test_results.py",
    "test_small_tasks.py",
    "test_accelerate.py",
    "test_cli.py",
    "test_resume.py",
    "test_optax.py",
)
"""The files whose tests take longest together, the longest first."""
