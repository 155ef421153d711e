"use strict";
const form = document.getElementById("filter");
const [text, outcome, error] = ["text", "outcome", "error"].map((id) => document.getElementById(id));
const rollouts = [...document.querySelectorAll("tbody.rollout")].map((group) => ({
  group,
  words: group.rows[0].textContent.toLowerCase(),
  outcome: group.dataset.outcome,
  errors: group.dataset.errors.split(" "),
}));

function apply() {
  const wanted = text.value.trim().toLowerCase();
  let shown = 0;
  for (const rollout of rollouts) {
    const fits =
      rollout.words.includes(wanted) &&
      (outcome.value === "" || rollout.outcome === outcome.value) &&
      (error.value === "" || rollout.errors.includes(error.value));
    rollout.group.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").textContent = `${shown} of ${rollouts.length} shown`;
}

form.addEventListener("input", apply);
form.addEventListener("submit", (event) => event.preventDefault());
// The fields are empty only after the event.
form.addEventListener("reset", () => setTimeout(apply));
form.hidden = false;
apply();
