// Known captions that complete the line being typed: a listbox below the field, for mouse and keyboard.
(() => {
  const list = document.createElement("ul");
  list.id = "known";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Known captions");
  list.hidden = true;
  let field = null, chosen = -1, asked = 0;

  const line = () => {
    const start = field.value.lastIndexOf("\n", field.selectionStart - 1) + 1;
    const end = field.value.indexOf("\n", start);
    return [start, end < 0 ? field.value.length : end];
  };
  const close = () => { list.hidden = true; chosen = -1; field?.setAttribute("aria-expanded", "false"); };
  const mark = (number) => {
    chosen = number;
    [...list.children].forEach((item, place) => item.setAttribute("aria-selected", String(place === number)));
    if (number >= 0) field.setAttribute("aria-activedescendant", list.children[number].id);
  };
  const take = (text) => {
    const [start, end] = line();
    field.value = field.value.slice(0, start) + text + field.value.slice(end);
    field.selectionStart = field.selectionEnd = start + text.length;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    asked += 1;
    close();
  };
  const show = (captions) => {
    list.replaceChildren(...captions.map((text, number) => {
      const item = document.createElement("li");
      item.id = `known-${number}`;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", "false");
      item.textContent = text;
      item.addEventListener("mousedown", (event) => { event.preventDefault(); take(text); });
      return item;
    }));
    const box = field.getBoundingClientRect();
    Object.assign(list.style, {
      left: `${box.left + window.scrollX}px`, top: `${box.bottom + window.scrollY + 2}px`, width: `${box.width}px`,
    });
    list.hidden = !captions.length;
    chosen = -1;
    field.setAttribute("aria-expanded", String(!list.hidden));
  };
  const ask = async () => {
    const [start, end] = line(), text = field.value.slice(start, end).trim(), number = ++asked;
    if (text.length < 2) return close();
    await new Promise((go) => setTimeout(go, 120));
    if (number !== asked) return;
    const reply = await fetch(`known?q=${encodeURIComponent(text.slice(0, 100))}`).catch(() => null);
    const captions = reply?.ok ? await reply.json() : [];
    if (number === asked && document.activeElement === field) show(captions.filter((caption) => caption !== text));
  };
  const key = (event) => {
    if (list.hidden) return;
    const count = list.children.length;
    if (event.key === "ArrowDown") mark((chosen + 1) % count);
    else if (event.key === "ArrowUp") mark((chosen + count - 1) % count);
    else if (event.key === "Enter" && chosen >= 0 && !event.shiftKey) take(list.children[chosen].textContent);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  document.addEventListener("focusin", (event) => {
    const box = event.target.closest?.("#captions textarea");
    if (!box || box === field) return;
    field = box;
    document.body.append(list);
    const facts = { role: "combobox", "aria-autocomplete": "list", "aria-controls": "known", "aria-expanded": "false" };
    Object.entries(facts).forEach(([name, value]) => field.setAttribute(name, value));
    field.setAttribute("autocomplete", "off");
    field.addEventListener("input", (event) => { if (event.isTrusted) ask(); });
    field.addEventListener("keydown", key, true);
    field.addEventListener("blur", close);
  });
})();
