// One request, written in each language. Every sample is a whole program: it gets a token, sends the
// request and prints the answer. Address and credentials come from the environment, never from here.

/** The languages by name, each with the file it belongs in and what writes it. */
export const LANGUAGES = {
  curl: { file: "sample.sh", write: curl },
  Python: { file: "sample.py", write: python },
  JavaScript: { file: "sample.mjs", write: javascript },
  "C#": { file: "Program.cs", write: csharp },
  Java: { file: "Sample.java", write: java },
  Go: { file: "sample.go", write: go },
};

const VARIABLES = { client_id: "CLIENT_ID", client_secret: "CLIENT_SECRET" };

const isSecret = (name) => Object.hasOwn(VARIABLES, name);
const literal = (text) => JSON.stringify(text); // also a literal of Python, C#, Java and Go
const pretty = (value) => JSON.stringify(value, null, 2);
const lines = (...all) => all.flat().filter((line) => line !== null).join("\n");
const indented = (text, by) => text.replaceAll("\n", `\n${by}`);

// curl

function curl(request) {
  if (!request.secured) return lines(curlLine(request), "");
  return lines(
    'TOKEN=$(curl -sS "$EARMARK/connect/token" -d grant_type=client_credentials \\',
    '  --data-urlencode "client_id=$CLIENT_ID" --data-urlencode "client_secret=$CLIENT_SECRET" |',
    `  sed -E 's/.*"access_token" *: *"([^"]+)".*/\\1/')`,
    "",
    curlLine(request),
    "",
  );
}

/** The one command, for a shell that has EARMARK and TOKEN. */
export function curlLine({ method, target, headers, secured, body }) {
  const options = [
    method === "HEAD" ? "--head" : method === "GET" ? null : `-X ${method}`,
    secured ? '-H "Authorization: Bearer $TOKEN"' : null,
    ...headers.map(([name, value]) => `-H ${shell(`${name}: ${value}`)}`),
    ...curlBody(body),
  ].filter(Boolean);
  return [`curl -sS "$EARMARK${target}"`, ...options].join(" \\\n  ");
}

function curlBody(body) {
  if (!body) return [];
  if (body.kind === "json") return ["-H 'Content-Type: application/json'", `--data-raw ${shell(body.text)}`];
  if (body.kind === "form") {
    return body.pairs.map(([name, value]) =>
      isSecret(name) ? `--data-urlencode "${name}=$${VARIABLES[name]}"` : `--data-urlencode ${shell(`${name}=${value}`)}`,
    );
  }
  return body.parts.map((part) => {
    if (part.json) return `--form-string ${shell(`${part.name}=${pretty(part.json)}`)}`;
    if (part.text) return `--form-string ${shell(`${part.name}=${part.text}`)}`;
    if (/^[\w.-]+$/.test(part.fileName)) return `-F ${part.name}=@${part.fileName}`;
    return `-F ${shell(`${part.name}=@"${part.fileName.replace(/["\\]/g, "\\$&")}"`)}`;
  });
}

function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// Python, with requests

function python({ method, target, headers, secured, body }) {
  const opened = body?.parts?.find((part) => part.fileName);
  const sent = [...headers];
  if (body?.kind === "json") sent.push(["Content-Type", "application/json"]);
  const pairs = sent.map(([name, value]) => `${literal(name)}: ${literal(value)}`);
  if (secured) pairs.unshift('"Authorization": f"Bearer {token}"');
  const call = [
    `answer = requests.${method.toLowerCase()}(`,
    `    base + ${literal(target)},`,
    pairs.length ? `    headers={${pairs.join(", ")}},` : null,
    ...pythonBody(body),
    "    timeout=600,",
    ")",
  ];
  const with_ = opened ? [`with open(${literal(opened.fileName)}, "rb") as file:`] : [];
  const indent = opened ? "    " : "";
  return lines(
    body?.parts ? "import json" : null,
    "import os",
    "",
    "import requests",
    "",
    'base = os.environ["EARMARK"]',
    secured ? PYTHON_TOKEN : null,
    ...with_,
    call.filter((line) => line !== null).map((line) => indent + indented(line, indent)),
    "print(answer.status_code, answer.text)",
    "",
  );
}

const PYTHON_TOKEN = `grant = {
    "grant_type": "client_credentials",
    "client_id": os.environ["CLIENT_ID"],
    "client_secret": os.environ["CLIENT_SECRET"],
}
token = requests.post(f"{base}/connect/token", data=grant, timeout=30).json()["access_token"]
`;

function pythonBody(body) {
  if (!body) return [];
  if (body.kind === "json") return [`    data=${literal(body.text)}.encode(),`];
  if (body.kind === "form") {
    const pairs = body.pairs.map(([name, value]) => {
      const said = isSecret(name) ? `os.environ["${VARIABLES[name]}"]` : literal(value);
      return `        ${literal(name)}: ${said},`;
    });
    return ["    data={", ...pairs, "    },"];
  }
  const parts = body.parts.map((part) => {
    if (part.json) return `        ${literal(part.name)}: (None, json.dumps(${indented(pythonValue(part.json), "        ")})),`;
    if (part.text) return `        ${literal(part.name)}: (None, ${literal(part.text)}),`;
    return `        ${literal(part.name)}: (${literal(part.fileName)}, file),`;
  });
  return ["    files={", ...parts, "    },"];
}

function pythonValue(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return literal(value);
  const isList = Array.isArray(value);
  const items = Object.entries(value).map(
    ([key, one]) => `    ${isList ? "" : `${literal(key)}: `}${indented(pythonValue(one), "    ")},\n`,
  );
  const [open, close] = isList ? "[]" : "{}";
  return items.length ? `${open}\n${items.join("")}${close}` : open + close;
}

// JavaScript, for Node.js 20 and later

function javascript({ method, target, headers, secured, body }) {
  const opened = body?.parts?.some((part) => part.fileName);
  const pairs = headers.map(([name, value]) => `${literal(name)}: ${literal(value)}`);
  if (secured) pairs.unshift("Authorization: `Bearer ${token}`");
  if (body?.kind === "json") pairs.push('"Content-Type": "application/json"');
  return lines(
    opened ? 'import { openAsBlob } from "node:fs";\n' : null,
    "const base = process.env.EARMARK;",
    secured ? JAVASCRIPT_TOKEN : null,
    ...javascriptBody(body),
    `const answer = await fetch(base + ${literal(target)}, {`,
    `  method: ${literal(method)},`,
    pairs.length ? `  headers: { ${pairs.join(", ")} },` : null,
    body ? "  body," : null,
    "});",
    "console.log(answer.status, await answer.text());",
    "",
  );
}

const JAVASCRIPT_TOKEN = `const grant = new URLSearchParams({
  grant_type: "client_credentials",
  client_id: process.env.CLIENT_ID,
  client_secret: process.env.CLIENT_SECRET,
});
const granted = await fetch(\`\${base}/connect/token\`, { method: "POST", body: grant });
const { access_token: token } = await granted.json();
`;

function javascriptBody(body) {
  if (!body) return [];
  if (body.kind === "json") return [`const body = ${literal(body.text)};`, ""];
  if (body.kind === "form") {
    const pairs = body.pairs.map(([name, value]) => {
      const said = isSecret(name) ? `process.env.${VARIABLES[name]}` : literal(value);
      return `  ${literal(name)}: ${said},`;
    });
    return ["const body = new URLSearchParams({", ...pairs, "});", ""];
  }
  const parts = body.parts.map((part) => {
    if (part.json) return `body.append(${literal(part.name)}, JSON.stringify(${pretty(part.json)}));`;
    if (part.text) return `body.append(${literal(part.name)}, ${literal(part.text)});`;
    const name = literal(part.fileName);
    return `body.append(${literal(part.name)}, await openAsBlob(${name}), ${name});`;
  });
  return ["const body = new FormData();", ...parts, ""];
}

// C#, a program of .NET 7 or later without a Main of its own

function csharp({ method, target, headers, secured, body }) {
  return lines(
    secured ? "using System.Net.Http.Headers;" : null,
    body?.kind === "json" ? "using System.Text;" : null,
    secured ? "using System.Text.Json;\n" : null,
    'var address = Environment.GetEnvironmentVariable("EARMARK");',
    "using var client = new HttpClient { Timeout = TimeSpan.FromMinutes(10) };",
    secured ? CSHARP_TOKEN : null,
    ...csharpBody(body),
    `using var request = new HttpRequestMessage(new HttpMethod(${literal(method)}), address + ${literal(target)});`,
    ...headers.map(([name, value]) => `request.Headers.TryAddWithoutValidation(${literal(name)}, ${literal(value)});`),
    body ? "request.Content = body;" : null,
    "using var answer = await client.SendAsync(request);",
    'Console.WriteLine($"{(int)answer.StatusCode} {await answer.Content.ReadAsStringAsync()}");',
    "",
  );
}

const CSHARP_TOKEN = `using var granted = await client.PostAsync(address + "/connect/token", new FormUrlEncodedContent(
    new Dictionary<string, string?>
    {
        ["grant_type"] = "client_credentials",
        ["client_id"] = Environment.GetEnvironmentVariable("CLIENT_ID"),
        ["client_secret"] = Environment.GetEnvironmentVariable("CLIENT_SECRET"),
    }));
granted.EnsureSuccessStatusCode();
using var grant = JsonDocument.Parse(await granted.Content.ReadAsStringAsync());
var token = grant.RootElement.GetProperty("access_token").GetString();
client.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", token);
`;

function csharpBody(body) {
  if (!body) return [];
  if (body.kind === "json") return [`using var body = new StringContent(${literal(body.text)}, Encoding.UTF8, "application/json");`, ""];
  if (body.kind === "form") {
    const pairs = body.pairs.map(([name, value]) => {
      const said = isSecret(name) ? `Environment.GetEnvironmentVariable("${VARIABLES[name]}")` : literal(value);
      return `    [${literal(name)}] = ${said},`;
    });
    return ["using var body = new FormUrlEncodedContent(new Dictionary<string, string?>", "{", ...pairs, "});", ""];
  }
  const parts = body.parts.map((part) => {
    const name = literal(part.name);
    if (part.json) return `body.Add(new StringContent("""\n${pretty(part.json)}\n"""), ${name});`;
    if (part.text) return `body.Add(new StringContent(${literal(part.text)}), ${name});`;
    const file = literal(part.fileName);
    return `body.Add(new StreamContent(File.OpenRead(${file})), ${name}, ${file});`;
  });
  return ["using var body = new MultipartFormDataContent();", ...parts, ""];
}

// Java 17 and later, run as `java Sample.java`

function java({ method, target, headers, secured, body }) {
  const at = "            ";
  const all = headers.map(([name, value]) => [literal(name), literal(value)]);
  if (secured) all.unshift(['"Authorization"', '"Bearer " + token']);
  if (body) all.push(['"Content-Type"', javaType(body)]);
  return lines(
    JAVA_IMPORTS,
    "public class Sample {",
    "    public static void main(String[] arguments) throws Exception {",
    '        String base = System.getenv("EARMARK");',
    "        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();",
    secured ? JAVA_TOKEN : null,
    ...javaBody(body).map((line) => line && `        ${line}`),
    `        HttpRequest request = HttpRequest.newBuilder(URI.create(base + ${literal(target)}))`,
    ...all.map(([name, value]) => `${at}.header(${name}, ${value})`),
    `${at}.method(${literal(method)}, ${body ? "body" : "HttpRequest.BodyPublishers.noBody()"})`,
    `${at}.build();`,
    "        HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());",
    '        System.out.println(answer.statusCode() + " " + answer.body());',
    "    }",
    "",
    "    static String encoded(String text) {",
    "        return URLEncoder.encode(text, StandardCharsets.UTF_8);",
    "    }",
    "}",
    "",
  );
}

const JAVA_IMPORTS = `import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
`;

const JAVA_TOKEN = `        HttpRequest grant = HttpRequest.newBuilder(URI.create(base + "/connect/token"))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .POST(HttpRequest.BodyPublishers.ofString("grant_type=client_credentials"
                + "&client_id=" + encoded(System.getenv("CLIENT_ID"))
                + "&client_secret=" + encoded(System.getenv("CLIENT_SECRET"))))
            .build();
        String granted = client.send(grant, HttpResponse.BodyHandlers.ofString()).body();
        Matcher found = Pattern.compile("\\"access_token\\"\\\\s*:\\\\s*\\"([^\\"]+)\\"").matcher(granted);
        if (!found.find()) {
            throw new IllegalStateException(granted);
        }
        String token = found.group(1);
`;

function javaType(body) {
  const types = { json: '"application/json"', form: '"application/x-www-form-urlencoded"' };
  return types[body.kind] ?? '"multipart/form-data; boundary=" + boundary';
}

function javaBody(body) {
  if (!body) return [];
  const text = (value) => `HttpRequest.BodyPublishers.ofString(${value})`;
  if (body.kind === "json") return [`BodyPublisher body = ${text(literal(body.text))};`, ""];
  if (body.kind === "form") {
    const pairs = body.pairs.map(([name, value]) => {
      const said = isSecret(name) ? `System.getenv("${VARIABLES[name]}")` : literal(value);
      return `${literal(`${name}=`)} + encoded(${said})`;
    });
    return [`BodyPublisher body = ${text(pairs.join(' + "&" + '))};`, ""];
  }
  const parts = body.parts.flatMap((part) => {
    const head = (more) => `"--" + boundary + "\\r\\nContent-Disposition: form-data; name=${`\\"${part.name}\\"`}${more}\\r\\n\\r\\n"`;
    if (!part.fileName) return [`${text(`${head("")} + ${javaText(part)} + "\\r\\n"`)},`];
    const named = literal(`; filename="${part.fileName.replace(/"/g, "%22")}"`).slice(1, -1);
    return [`${text(head(named))},`, `HttpRequest.BodyPublishers.ofFile(Path.of(${literal(part.fileName)})),`, `${text('"\\r\\n"')},`];
  });
  return [
    "String boundary = UUID.randomUUID().toString();",
    "BodyPublisher body = HttpRequest.BodyPublishers.concat(",
    ...parts.map((line) => `    ${line}`),
    `    ${text('"--" + boundary + "--\\r\\n"')});`,
    "",
  ];
}

function javaText(part) {
  if (part.text) return literal(part.text);
  return `"""\n${pretty(part.json).replaceAll("\\", "\\\\")}"""`;
}

// Go

function go({ method, target, headers, secured, body }) {
  const opened = body?.parts?.find((part) => part.fileName);
  const imports = ["fmt", "io", "log", "net/http", "os"];
  if (secured) imports.push("encoding/json");
  if (secured || body?.kind === "form") imports.push("net/url");
  if (body?.kind === "json" || body?.kind === "form") imports.push("strings");
  if (body?.parts) imports.push("mime/multipart");
  const set = headers.map(([name, value]) => `\trequest.Header.Set(${literal(name)}, ${literal(value)})`);
  if (secured) set.unshift('\trequest.Header.Set("Authorization", "Bearer "+grant.AccessToken)');
  if (body) set.push(`\trequest.Header.Set("Content-Type", ${goType(body)})`);
  return lines(
    "package main",
    "",
    "import (",
    imports.sort().map((name) => `\t"${name}"`),
    ")",
    "",
    "func main() {",
    '\tbase := os.Getenv("EARMARK")',
    secured ? GO_TOKEN : null,
    ...goBody(body, opened),
    `\trequest, err := http.NewRequest(${literal(method)}, base+${literal(target)}, ${body ? "body" : "nil"})`,
    "\tcheck(err)",
    ...set,
    "\tanswer, err := http.DefaultClient.Do(request)",
    "\tcheck(err)",
    "\tdefer answer.Body.Close()",
    "\ttext, err := io.ReadAll(answer.Body)",
    "\tcheck(err)",
    "\tfmt.Println(answer.StatusCode, string(text))",
    "}",
    "",
    "func check(err error) {",
    "\tif err != nil {",
    "\t\tlog.Fatal(err)",
    "\t}",
    "}",
    "",
  );
}

const GO_TOKEN = `	granted, err := http.PostForm(base+"/connect/token", url.Values{
		"grant_type":    {"client_credentials"},
		"client_id":     {os.Getenv("CLIENT_ID")},
		"client_secret": {os.Getenv("CLIENT_SECRET")},
	})
	check(err)
	defer granted.Body.Close()
	var grant struct {
		AccessToken string \`json:"access_token"\`
	}
	check(json.NewDecoder(granted.Body).Decode(&grant))
`;

function goType(body) {
  const types = { json: '"application/json"', form: '"application/x-www-form-urlencoded"' };
  return types[body.kind] ?? "form.FormDataContentType()";
}

function goBody(body, opened) {
  if (!body) return [];
  if (body.kind === "json") return [`\tbody := strings.NewReader(${goText(body.text)})`, ""];
  if (body.kind === "form") {
    const width = Math.max(...body.pairs.map(([name]) => name.length)); // gofmt aligns the values
    const pairs = body.pairs.map(([name, value]) => {
      const said = isSecret(name) ? `os.Getenv("${VARIABLES[name]}")` : literal(value);
      return `\t\t${literal(name)}: ${" ".repeat(width - name.length)}{${said}},`;
    });
    return ["\tbody := strings.NewReader(url.Values{", ...pairs, "\t}.Encode())", ""];
  }
  const fields = body.parts.filter((part) => !part.fileName);
  const steps = fields.map((part) => `form.WriteField(${literal(part.name)}, ${goText(part.text ?? pretty(part.json))})`);
  return [
    opened ? `\tfile, err := os.Open(${literal(opened.fileName)})\n\tcheck(err)\n\tdefer file.Close()` : null,
    "\tbody, writer := io.Pipe()",
    "\tform := multipart.NewWriter(writer)",
    "\tgo func() {",
    `\t\terr := ${steps[0]}`,
    ...steps.slice(1).map((step) => `\t\tif err == nil {\n\t\t\terr = ${step}\n\t\t}`),
    opened ? GO_FILE.replace("FILE", () => `${literal(opened.name)}, ${literal(opened.fileName)}`) : null,
    "\t\tif err == nil {",
    "\t\t\terr = form.Close()",
    "\t\t}",
    "\t\twriter.CloseWithError(err)",
    "\t}()",
    "",
  ].filter((line) => line !== null);
}

const GO_FILE = `		if err == nil {
			var part io.Writer
			if part, err = form.CreateFormFile(FILE); err == nil {
				_, err = io.Copy(part, file)
			}
		}`;

function goText(text) {
  return text.includes("`") || text.includes("\r") ? literal(text) : `\`${text}\``;
}
