"""Checks the documents: links lead somewhere, every setting's section is explained, every plugin function is described.

Prints one line for each fault and exits 1 when there is any.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.M)
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.M | re.S)

faults = []


def fault(path, text):
    faults.append(f"{path.relative_to(ROOT)}: {text}")


def documents():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\n") if name and (ROOT / name).is_file()]


def anchors(path):
    """The anchors that a reader's renderer makes from headings."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    result = set()
    for heading in HEADING.findall(text):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        result.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return result


def check_links(path):
    for target in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        if not other.exists():
            fault(path, f"link to {target}, which does not exist")
        elif anchor and other.suffix == ".md" and anchor not in anchors(other):
            fault(path, f"link to {target}, but that page has no such heading")


def check_settings():
    page = ROOT / "config/moonraft.toml"
    guide = ROOT / "docs/configuration.md"
    explained = guide.read_text(encoding="utf-8")
    sections = re.findall(r"^\[([a-z]+)\]$", page.read_text(encoding="utf-8"), re.M)
    for section in sections:
        if f"`[{section}]`" not in explained:
            fault(guide, f"section [{section}] of the settings is not explained")
    known = set(sections) | {"plugin"}
    for section in re.findall(r"`\[+([a-z]+)\]+`", explained):
        if section not in known:
            fault(guide, f"explains [{section}], which is not a section")


def check_plugin_functions():
    """Every function declared for editors in plugins/types must be described in the API page."""
    page = ROOT / "docs/plugin-api.md"
    if not page.exists():
        return
    described = page.read_text(encoding="utf-8")
    for declarations in sorted((ROOT / "plugins/types").glob("*.lua")):
        for name in re.findall(r"^function ([\w.:]+)\(", declarations.read_text(encoding="utf-8"), re.M):
            # Methods are described on a variable (`s:equals`), families as `log.debug/info/…`.
            method = re.split("[.:]", name)[-1]
            forms = [name, name.replace(":", "."), ":%s(" % method, ":%s`" % method]
            family = re.search(r"%s\.[\w/]*\b%s\b" % (re.escape(name.split(".")[0]), method), described)
            if family is None and not any(form in described for form in forms):
                fault(page, f"{name} of {declarations.name} is not described")


for document in documents():
    check_links(document)
check_settings()
check_plugin_functions()
for line in faults:
    print(line)
print(f"documents: {len(documents())} read, {len(faults)} faults")
sys.exit(1 if faults else 0)
