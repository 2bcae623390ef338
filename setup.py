"""Packaging of GLEAM: three import packages that live at the top of the repository."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
DOCS = ["sphinx>=8.1", "furo>=2024.8", "myst-parser>=4.0"]

setup(
    name="gleam-mri",
    version="0.1.0",
    description="Greedy, memory-efficient training of unrolled MRI reconstruction networks",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["gleam", "gleam.*", "models", "physics"]),
    package_dir={"": "."},
    package_data={"gleam": ["py.typed", "configs/*.yaml", "weights/*"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        "torch>=2.6",
        "numpy>=1.26",
        "sigpy>=0.1.27",
        "h5py>=3.10",
        "ray>=2.40",
        "pyyaml>=6.0",
        "matplotlib>=3.8",
        "pydantic>=2.7",
        "typer>=0.15",
        "rich>=13.7",
        "ismrmrd>=1.14",
        "nibabel>=5.2",
        "safetensors>=0.4",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.8",
            "ruff",
            "mypy",
            "types-PyYAML",
            "scikit-image>=0.22",
            "scipy>=1.11",
            "pytorch-lightning>=2.5",
            *DOCS,
        ],
        "docs": DOCS,
        "noncartesian": ["mri-nufft>=1.5.1", "finufft>=2.4"],
        "tensorboard": ["tensorboard>=2.15"],
    },
    entry_points={"console_scripts": ["gleam = gleam.cli:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
