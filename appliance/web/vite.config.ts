import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // wherever the director serves it
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  build: {
    assetsInlineLimit: 0, // the content security policy has no data: URIs
    modulePreload: { polyfill: false },
    sourcemap: false,
    target: "es2022",
  },
});
