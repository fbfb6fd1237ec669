"""Reads settings.ini, the one place of configuration. `pip install .` brings the library, `pip install .[ray]` a cluster, `pip install .[dev]` the workshop."""
from configparser import ConfigParser
from pathlib import Path

import setuptools

ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]

setuptools.setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    url=cfg["git_url"],
    packages=setuptools.find_packages(include=["confnb", "confnb.*"]),
    package_data={"confnb": ["py.typed", "*.pyi", "templates/*", "zoo/*/*/*"]},
    include_package_data=False,
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={"dev": cfg["dev_requirements"].split(), "ray": cfg["ray_requirements"].split()},
    entry_points={
        "console_scripts": cfg["console_scripts"].splitlines(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
