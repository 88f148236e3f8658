"""Builds HTML and inline SVG as a tree; texts and attributes are escaped when it is serialized."""

from xml.etree.ElementTree import Element, tostring

from spotify_pipeline.terminal import printable

DOCTYPE = "<!doctype html>\n"

Child = Element | str | None


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """An element; `class_` is class, `aria_label` aria-label; children that are None are left out.

    Strips control characters and bidirectional overrides from texts and values.
    """
    made = Element(
        tag,
        {
            name.removesuffix("_").replace("_", "-"): printable(str(value))
            for name, value in attributes.items()
            if value is not None
        },
    )
    for child in children:
        if isinstance(child, str):
            _append_text(made, printable(child))
        elif child is not None:
            made.append(child)
    return made


def _append_text(parent: Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text


def style(css: str) -> Element:
    """A style element, whose text HTML does not escape: only for our own CSS."""
    made = Element("style")
    made.text = css
    return made


def written(root: Element) -> str:
    """Serializes the document."""
    return DOCTYPE + tostring(root, encoding="unicode", method="html") + "\n"


def svg(width: float, height: float, label: str, *children: Child, class_: str = "") -> Element:
    """An SVG drawing with a one-sentence label for screen readers."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        class_=class_ or None,
    )


def text(x: float, y: float, words: str, class_: str = "", anchor: str = "start") -> Element:
    """A text in a drawing; `anchor` is start, middle or end."""
    return element("text", words, x=f"{x:g}", y=f"{y:g}", class_=class_ or None, text_anchor=anchor)


def rect(
    x: float, y: float, width: float, height: float, class_: str, title: str | None = None
) -> Element:
    """A rounded rectangle with a tooltip."""
    return element(
        "rect",
        element("title", title) if title else None,
        x=f"{x:.1f}",
        y=f"{y:.1f}",
        width=f"{width:.1f}",
        height=f"{height:.1f}",
        rx="4",
        class_=class_,
    )
