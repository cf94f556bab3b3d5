import { render } from "preact";
import { App } from "./app";
import { applyScheme } from "./scheme";
import "uplot/dist/uPlot.min.css";
import "./app.css";

applyScheme();
const place = document.getElementById("app");
if (place) render(<App />, place);
