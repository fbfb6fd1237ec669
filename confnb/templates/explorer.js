const box = this.closest('.confnb-explorer'), told = JSON.parse(box.dataset.told);
const at = +this.value, t = told.thresholds[at];
box.querySelector('output').textContent = t;
this.setAttribute('aria-valuetext', 'threshold ' + t);
told.models.forEach((model, k) => {
  const part = box.querySelectorAll('.model')[k], dot = box.querySelectorAll('circle')[k];
  for (const aim of ['none', 'wrong']) {
    const [right, wrong] = model[aim][at], shares = {right, abstained: 1 - right - wrong, wrong};
    for (const [name, share] of Object.entries(shares)) {
      const percent = (100 * Math.abs(share)).toFixed(1) + '%';
      part.querySelector(`.${aim} .bar .${name}`).style.width = percent;
      part.querySelector(`.${aim} b.${name}`).textContent = percent.replace('%', ' %');
    }
  }
  dot.setAttribute('cx', told.box[0] + told.box[2] * model.wrong[at][1]);
  dot.setAttribute('cy', told.box[1] + told.box[3] * (1 - model.none[at][0]));
  let seen = 0;
  part.querySelectorAll('figure').forEach(f => { f.hidden = !(+f.dataset.confidence > +t); seen += !f.hidden; });
  const none = part.querySelector('.none-left');
  if (none) none.hidden = seen > 0;
});
