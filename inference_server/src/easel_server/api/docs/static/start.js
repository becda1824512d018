// Shows the description of this host's API by Swagger UI, which asks no other host.
SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "openapi.json",
  validatorUrl: null, // else it has the description checked by a public service
  deepLinking: true,
  onComplete: () => { document.documentElement.dataset.ready = ""; },
});
