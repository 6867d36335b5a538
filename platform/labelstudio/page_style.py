"""The labeling page's style sheet.

``.lsf-*`` are Label Studio's own class names (1.23). Without these rules each field takes four times the
height, so that a breast case no longer fits on a 1440x900 screen, and the pencil shows on hover only.
"""

from __future__ import annotations

NOT_ASSESSED_STYLE = "font-style: italic; opacity: 0.75"
"""Of a choice "not assessed", so that it is no twin of "absent"."""

# No ">" in it: Label Studio escapes that sign, and the rule is lost.
STYLE = """
.sl-page { display: flex; gap: 12px; align-items: flex-start; }
.sl-images { flex: 1 1 54%; min-width: 0; position: sticky; top: 0; }
.sl-form { flex: 1 1 46%; min-width: 400px; }
.sl-form h4 { margin: 6px 0 2px !important; font-size: 13px; line-height: 18px; }
.sl-form .lsf-text-area { margin-top: 0 !important; }
.sl-form .lsf-textarea__region { padding-right: 84px !important; }
.sl-form .lsf-textarea__actions { opacity: 0.75; pointer-events: auto; }
.sl-form .lsf-textarea__region:not(:hover) [aria-label="Delete Region"] { visibility: hidden; }
.sl-form textarea { min-height: 72px; }
.sl-head { display: flex; flex-wrap: wrap; gap: 0 16px; justify-content: space-between; }
.sl-row { display: grid; grid-template-columns: 112px 1fr; border-top: 1px solid rgba(128,128,128,0.25); }
.sl-row .lsf-choices { margin: 0; padding: 2px 0; display: flex; flex-wrap: wrap; gap: 0 6px; }
.sl-row .lsf-choices { align-content: flex-start; }
.sl-row .lsf-choice, .sl-row .lsf-choice__item { margin: 0; padding: 0; min-height: 0; }
.sl-row .lsf-choice__checkbox { margin: 0; font-size: 13px; font-weight: 400; line-height: 22px; }
.sl-row .ant-checkbox + span { padding: 0 4px; }
.sl-row .ant-checkbox-wrapper-checked {
  font-weight: 600; border-radius: 4px; background: rgba(75,94,168,0.14);
}
.sl-row .lsf-choice__item:has(.ant-checkbox-checked) { opacity: 1 !important; }
.sl-row .lsf-choices_hidden { display: none; }
.sl-row .lsf-hint { opacity: 0.55; }
.sl-keyless .lsf-hint, .sl-place sup { display: none; }
.sl-fixed { display: none; }
.sl-title { display: flex; flex-wrap: wrap; gap: 0 6px; align-content: flex-start; }
.sl-mark h4 { padding: 0 5px; border-radius: 8px; background: #ffd666; color: #613400; font-size: 12px; }
.sl-mark h4:empty { display: none; }
.sl-legend { display: none; }
.sl-form:has(.sl-mark h4:not(:empty)) .sl-legend { display: block; }
.sl-row:has(.sl-mark h4:not(:empty)) { background: rgba(255,214,102,0.2); }
.sl-place { display: flex; flex-wrap: wrap; gap: 0 10px; border-top: 1px solid rgba(128,128,128,0.25); }
.sl-place .lsf-choices, .sl-place .lsf-number { margin: 0 !important; }
.sl-row button, .sl-place button, .sl-place input {
  height: 28px !important; padding: 0 6px !important; font-size: 13px;
}
.sl-row button *, .sl-place button * { color: var(--color-neutral-content) !important; }
.sl-place button { min-width: 64px; }
.sl-place input { width: 72px; }
"""
