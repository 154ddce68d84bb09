// While the chat is being written: what a reader folds or unfolds stays so, and whoever reads its end stays there.
const folds = new Map();
let isAtEnd = true;
element.addEventListener("click", (event) => {
  const details = event.target.closest("summary")?.parentElement;
  if (details) folds.set(details.dataset.key, !details.open);
});
element.addEventListener("scroll", () => {
  isAtEnd = element.scrollTop + element.clientHeight > element.scrollHeight - 60;
});
watch("value", () => {
  const all = element.querySelectorAll("details[data-key]");
  if (all.length === 0) folds.clear();
  for (const details of all) {
    if (folds.has(details.dataset.key)) details.open = folds.get(details.dataset.key);
  }
  if (isAtEnd) element.scrollTop = element.scrollHeight;
});
