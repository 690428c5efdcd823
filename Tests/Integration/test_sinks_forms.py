"""What stands on the wire: each form of a webhook, and Grafana's annotations as its API takes them."""
import json

from support import wait_until  # first: it sets the path for the others

from sink_case import Web
from test_sinks import SECRET, SinkCase


class Grafana(Web):
    """Its `POST /api/annotations`, which refuses what Grafana refuses, and any field that it does not know."""
    fields = {"dashboardUID": str, "panelId": int, "time": int, "timeEnd": int, "tags": list, "text": str}

    def __init__(self):
        self.made, self.refused = [], []
        super().__init__(self.take)

    def take(self, handler, body):
        problem = self.problem(handler.command, handler.path, handler.headers, body)
        if problem:
            self.refused.append(problem)
            return self.say(handler, problem[0], {"message": problem[1]})
        self.made.append(json.loads(body))
        return self.say(handler, 200, {"message": "Annotation added", "id": len(self.made)})

    def say(self, handler, status, told):
        handler.say(status, json.dumps(told).encode(), **{"Content-Type": "application/json"})

    def problem(self, method, path, headers, body):
        """(status, message) of a request that is refused; None if it is well."""
        if path != "/api/annotations":
            return 404, "Not found"
        if method != "POST":
            return 405, "Method not allowed"
        if headers["Authorization"] != "Bearer " + SECRET.decode():
            return 401, "Invalid API key"
        try:
            told = json.loads(body)
        except ValueError:
            return 400, "bad request data"
        if headers["Content-Type"] != "application/json" or not isinstance(told, dict):
            return 400, "bad request data"
        for name, value in told.items():
            if type(value) is not self.fields.get(name):
                return 400, f"{name}: {value!r}"
        if not told.get("text"):
            return 400, "Failed to save annotation: text field should not be empty"
        if not all(isinstance(tag, str) for tag in told.get("tags", [])):
            return 400, "tags"
        return None


class Forms(SinkCase):
    def bodies(self, hook, count):
        """What came, as (headers, JSON), when there is as much of it."""
        wait_until(lambda: len(hook.taken()) >= count, 60, f"{count} to come")
        self.assertEqual(len(hook.requests), count)
        return [(headers, json.loads(body)) for headers, body, _ in hook.requests]

    def test_each_form_of_a_webhook(self):
        forms = ("json", "cloudEvent", "cloudEventBinary", "resourceHealth", "availabilityStatus")
        hooks = {form: self.hook() for form in forms}
        self.start_notifier("sinks:\n" + "".join(
            f"  - {{name: {form}, inFlight: 1, webhook: {{url: {hook.url}, format: {form}}}}}\n"
            for form, hook in hooks.items()))
        self.hold(["db-0"], "2")
        (record,) = self.annotations(1)
        key = record["annotationId"]
        told = {form: self.bodies(hook, 2 if form in ("resourceHealth", "availabilityStatus") else 1)
                for form, hook in hooks.items()}

        ((headers, plain),) = told["json"]
        self.assertEqual(headers["Content-Type"], "application/json; charset=utf-8")
        self.assertEqual((plain["id"], plain["state"], plain["guest"]), (key, "succeeded", "db-0"))

        ((headers, event),) = told["cloudEvent"]
        self.assertEqual(headers["Content-Type"].replace(" ", ""),
                         "application/cloudevents+json;charset=utf-8")
        self.assertEqual(event.pop("data"), plain)
        self.assertEqual({name: event[name] for name in ("specversion", "id", "type", "subject")},
                         {"specversion": "1.0", "id": key, "type": "fermata.hold.succeeded",
                          "subject": "db-0"})
        self.assertRegex(event["source"], "^fermata://")

        ((headers, body),) = told["cloudEventBinary"]
        self.assertEqual(body, plain)
        self.assertEqual(headers["Content-Type"], "application/json; charset=utf-8")
        attributes = {name.lower()[3:]: value for name, value in headers.items()
                      if name.lower().startswith("ce-")}
        self.assertEqual(event.pop("datacontenttype"), "application/json")
        self.assertEqual(attributes, event)

        properties = [body["data"]["resourceInfo"]["properties"]
                      for _, body in told["resourceHealth"]]
        self.assertEqual([p["annotationName"] for p in properties],
                         ["VirtualMachinePlannedFreezeStarted", "VirtualMachinePlannedFreezeSucceeded"])
        self.assertIn("was paused", properties[1]["summary"])

        properties = [body["data"]["resourceInfo"]["properties"]
                      for _, body in told["availabilityStatus"]]
        self.assertEqual(
            [(p["previousAvailabilityState"], p["availabilityState"]) for p in properties],
            [("Available", "Unavailable"), ("Unavailable", "Available")])
        for form in ("resourceHealth", "availabilityStatus"):
            for headers, body in told[form]:
                self.assertEqual(headers["Content-Type"].replace(" ", ""),
                                 "application/cloudevents+json;charset=utf-8")
                self.assertTrue(body["id"].startswith(headers["Idempotency-Key"]), body["id"])
                self.assertEqual(body["specversion"], "1.0")

    def test_grafana(self):
        grafana = Grafana()
        self.addCleanup(grafana.close)
        self.start_notifier(f"""
sinks:
  - name: graphs
    grafana: {{url: "{grafana.url}/", tokenFile: {self.key}, tags: [prod], dashboard: a1b2}}
  - name: all
    grafana: {{url: {grafana.url}, tokenFile: {self.key}}}
    only: {{states: [started]}}
""")
        self.hold(["db-0"], "2")
        (record,) = self.annotations(1)
        wait_until(lambda: len(grafana.made) == 2 or grafana.refused, 60, "both to come")
        self.assertEqual(grafana.refused, [])
        region = next(told for told in grafana.made if "timeEnd" in told)
        moment = next(told for told in grafana.made if "timeEnd" not in told)
        self.assertEqual(region["timeEnd"] - region["time"], 13)
        self.assertEqual(region["dashboardUID"], "a1b2")
        self.assertIn("was paused", region["text"])
        self.assertLessEqual({"fermata", "succeeded", "guest:db-0", "host:a", "prod"}, set(region["tags"]))
        self.assertIn("started", moment["tags"])
        self.assertEqual(record["guest"], "db-0")


del SinkCase
