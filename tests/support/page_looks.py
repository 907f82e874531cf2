"""What to ask of a page in a browser: names for screen readers, contrast, and that it fits a phone."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

SEEN = """() => {
    // Contrast of every text that is seen against the first ground behind it that covers, by WCAG 2.
    const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        pen.clearRect(0, 0, 1, 1);
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => {
        const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    };
    const found = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const text = walk.currentNode.textContent.trim();
        const holder = walk.currentNode.parentElement;
        if (!text || holder.closest(".hidden, .skip, noscript, :disabled") || !holder.checkVisibility()) continue;
        let ground = holder;
        while (ground && rgba(getComputedStyle(ground).backgroundColor)[3] < 255) ground = ground.parentElement;
        const a = light(rgba(getComputedStyle(holder).color));
        const b = light(rgba(getComputedStyle(ground ?? document.body).backgroundColor));
        found.push([text.slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
    }
    return found;
}"""

CONTROLS = {
    "button",
    "textbox",
    "tab",
    "combobox",
    "spinbutton",
    "link",
    "checkbox",
    "dialog",
    "tabpanel",
    "image",
    "log",
}


def nameless(page: Page, *, least: int = 9) -> list[str]:
    """Roles of what a screen reader would stop at without a word to say, by Chromium's accessibility tree."""
    session = page.context.new_cdp_session(page)
    nodes: list[dict[str, Any]] = session.send("Accessibility.getFullAXTree")["nodes"]
    told = [node for node in nodes if not node["ignored"] and node["role"]["value"] in CONTROLS]
    assert len(told) >= least, "nothing was looked at"
    return [node["role"]["value"] for node in told if not node.get("name", {}).get("value")]


def faint(page: Page) -> list[tuple[str, float]]:
    found = page.evaluate(SEEN)
    assert len(found) > 5, "nothing was looked at"
    return [(text, ratio) for text, ratio in found if ratio < 4.5]


def check_small(page: Page, *, fields: bool = True) -> None:
    """Nothing sticks out to the right, no field makes the phone zoom, no button is too small for a finger."""
    out = page.evaluate(
        """[...document.querySelectorAll("main *, header *, dialog[open] *")]
            .filter((node) => node.checkVisibility() && !node.closest(".hidden, pre, svg"))
            .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
            .map((node) => node.outerHTML.slice(0, 80))"""
    )
    assert out == []
    sizes = page.locator("input:visible, textarea:visible, select:visible").evaluate_all(
        "nodes => nodes.map((node) => parseFloat(getComputedStyle(node).fontSize))"
    )
    assert bool(sizes) == fields and min(sizes, default=16) >= 16
    boxes = page.locator("button:visible").evaluate_all(
        "nodes => nodes.map((node) => node.getBoundingClientRect()).map(({ width, height }) => Math.min(width, height))"
    )
    assert boxes and min(boxes) >= 24
