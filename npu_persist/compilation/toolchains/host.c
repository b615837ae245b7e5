/* Compile one graph with Intel's NPU compiler: the program that runs under wine, in a process of its own.
 *
 * The promise: it ends when its standard input does, since then its caller is gone; and it says in one message what
 * came of the job, all of OpenVINO's own words included. It needs no NPU.
 *
 * The request, lines in UTF-8 on standard input, which then stays open:
 *
 *     model=model.xml               the graph
 *     weights=model.bin             its weights
 *     output=out/model.blob         where the blob goes; the caller checks that all of it is there
 *     property.NPU_PLATFORM=4000    a property of the NPU; any number of them
 *     option.NPU_USE_NPUW=YES       one that the plugin reads from the compilation alone; at most 32
 *     shape.input_ids=1,128         the shape of an input, by one of its names; all that change, together
 *     end
 *
 * Paths are relative and of ASCII: OpenVINO's export takes no others on Windows. The caller makes links for that.
 *
 * The messages, JSON on a line each of standard output; every other line there is OpenVINO's log. A message begins with
 * an end of line, for the log may stand in the middle of one:
 *
 *     {"stage": "compile"}
 *     {"result": {"requirements": "meta=2.7;...", "openvino": "2026.4.1-...", "compiler": "8.4"}}
 *     {"failure": {"stage": "compile", "text": "Exception from src/..."}}
 *
 * After the last it waits for its end: the caller wants to read how much memory it held.
 *
 * Build: x86_64-w64-mingw32-gcc -O2 -static-libgcc -I<wheel>/openvino/include host.c <wheel>/openvino/libs/openvino_c.lib
 */

#include <fcntl.h>
#include <inttypes.h>
#include <io.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

#include <openvino/c/openvino.h>

#define DEVICE "NPU"
#define MAX_RANK 32
#define MAX_OPTIONS 32

/* A text that grows. */
typedef struct {
    char *data;
    size_t length, capacity;
} Text;

/* One `key=value` of the request. */
typedef struct {
    char *key, *value;
} Field;

typedef struct {
    Field *fields;
    size_t count, capacity;
} Request;

static void die(const char *what) {
    fprintf(stderr, "%s\n", what);
    fflush(stderr);
    /* Not exit(): what OpenVINO's libraries do at their end is not needed, and may hang. */
    TerminateProcess(GetCurrentProcess(), 3);
}

static void *grow(void *data, size_t size) {
    void *grown = realloc(data, size);
    if (grown == NULL)
        die("host: out of memory");
    return grown;
}

static void append_byte(Text *text, char byte) {
    if (text->length + 1 >= text->capacity) {
        text->capacity = 2 * text->capacity + 256;
        text->data = grow(text->data, text->capacity);
    }
    text->data[text->length++] = byte;
    text->data[text->length] = '\0';
}

static void append(Text *text, const char *more) {
    for (; *more; more++)
        append_byte(text, *more);
}

static void append_json_string(Text *text, const char *value) {
    append_byte(text, '"');
    for (; *value; value++) {
        unsigned char byte = (unsigned char)*value;
        char escaped[8];
        if (byte == '"' || byte == '\\' || byte < 0x20) {
            snprintf(escaped, sizeof escaped, "\\u%04x", byte);
            append(text, escaped);
        } else {
            append_byte(text, *value); /* the rest is UTF-8, or the caller reads it as if */
        }
    }
    append_byte(text, '"');
}

/* Write {"<kind>": {"<name>": "<value>", ...}}; pairs of names and values end with NULL, and so do the pairs. A value
 * that is NULL becomes null. */
static void say(const char *kind, ...) {
    Text text = {0};
    va_list pairs;
    const char *name, *separator = "";
    append(&text, "\n{\"");
    append(&text, kind);
    append(&text, "\": {");
    va_start(pairs, kind);
    while ((name = va_arg(pairs, const char *)) != NULL) {
        const char *value = va_arg(pairs, const char *);
        append(&text, separator);
        append_json_string(&text, name);
        append(&text, ": ");
        if (value == NULL)
            append(&text, "null");
        else
            append_json_string(&text, value);
        separator = ", ";
    }
    va_end(pairs);
    append(&text, "}}\n");
    fflush(stdout);
    for (size_t done = 0; done < text.length;) {
        int written = _write(1, text.data + done, (unsigned)(text.length - done));
        if (written <= 0)
            die("host: nobody listens");
        done += (size_t)written;
    }
    free(text.data);
}

static DWORD WINAPI end_with_caller(LPVOID nothing) {
    (void)nothing;
    while (fgetc(stdin) != EOF) {
    }
    TerminateProcess(GetCurrentProcess(), 0);
    return 0;
}

/* What is done now, for messages. */
static const char *stage = "start";
static HANDLE caller;

static void begin(const char *name) {
    stage = name;
    Text text = {0};
    append(&text, "\n{\"stage\": ");
    append_json_string(&text, name);
    append(&text, "}\n");
    if (_write(1, text.data, (unsigned)text.length) <= 0)
        die("host: nobody listens");
    free(text.data);
}

static int wait_for_end(void) {
    WaitForSingleObject(caller, INFINITE);
    return 0;
}

static int fail(const char *text) {
    say("failure", "stage", stage, "text", text, NULL);
    return wait_for_end();
}

/* OpenVINO's last message is the whole story; its status alone says little, but is all there is for some failures. */
static int fail_with(ov_status_e status) {
    const char *message = ov_get_last_err_msg();
    if (message != NULL && *message != '\0')
        return fail(message);
    char text[64];
    snprintf(text, sizeof text, "OpenVINO's status %d, without a message", (int)status);
    return fail(text);
}

static void read_request(Request *request) {
    for (;;) {
        Text line = {0};
        int byte;
        while ((byte = fgetc(stdin)) != EOF && byte != '\n')
            append_byte(&line, (char)byte);
        if (byte == EOF)
            die("host: the request has no end");
        if (line.data != NULL && strcmp(line.data, "end") == 0)
            return;
        /* The name of an input may have others, and so may the value of a property. */
        char *equals = line.data == NULL ? NULL
                       : strncmp(line.data, "shape.", 6) == 0 ? strrchr(line.data, '=')
                                                              : strchr(line.data, '=');
        if (equals == NULL)
            die("host: a line of the request has no '='");
        *equals = '\0';
        if (request->count == request->capacity) {
            request->capacity = 2 * request->capacity + 16;
            request->fields = grow(request->fields, request->capacity * sizeof(Field));
        }
        request->fields[request->count++] = (Field){line.data, equals + 1};
    }
}

static const char *find(const Request *request, const char *key) {
    for (size_t i = 0; i < request->count; i++)
        if (strcmp(request->fields[i].key, key) == 0)
            return request->fields[i].value;
    fprintf(stderr, "host: the request lacks %s\n", key);
    die("host: a request has model, weights and output");
    return NULL;
}

/* The rest of a key after its prefix, or NULL if it has another. */
static const char *strip(const char *key, const char *prefix) {
    size_t length = strlen(prefix);
    return strncmp(key, prefix, length) == 0 ? key + length : NULL;
}

static ov_status_e set_properties(const ov_core_t *core, const Request *request) {
    for (size_t i = 0; i < request->count; i++) {
        const char *name = strip(request->fields[i].key, "property.");
        if (name != NULL) {
            ov_status_e status = ov_core_set_property(core, DEVICE, name, request->fields[i].value);
            if (status != OK)
                return status;
        }
    }
    return OK;
}

/* OpenVINO's C API takes a shape without axes for one of unknown rank: leave an input that is a scalar alone, and refuse
 * to make a scalar of another. */
static ov_status_e check_scalar(const ov_model_t *model, const char *name) {
    ov_output_const_port_t *port;
    ov_partial_shape_t shape;
    ov_status_e status = ov_model_const_input_by_name(model, name, &port);
    if (status != OK)
        return status;
    if ((status = ov_port_get_partial_shape(port, &shape)) == OK) {
        if (shape.rank.min != 0 || shape.rank.max != 0) {
            fprintf(stderr, "host: %s is no scalar, and cannot be made one\n", name);
            die("host: a shape has no axes");
        }
        ov_partial_shape_free(&shape);
    }
    ov_output_const_port_free(port);
    return status;
}

static ov_status_e reshape(const ov_model_t *model, const Request *request) {
    const char **names = grow(NULL, (request->count + 1) * sizeof *names);
    ov_partial_shape_t *shapes = grow(NULL, (request->count + 1) * sizeof *shapes);
    size_t count = 0;
    for (size_t i = 0; i < request->count; i++) {
        const char *name = strip(request->fields[i].key, "shape.");
        if (name == NULL)
            continue;
        int64_t sizes[MAX_RANK];
        int64_t rank = 0;
        for (char *at = request->fields[i].value; *at != '\0';) {
            char *after;
            if (rank == MAX_RANK)
                die("host: a shape has more than 32 axes");
            sizes[rank++] = strtoll(at, &after, 10);
            if (after == at || (*after != ',' && *after != '\0'))
                die("host: a shape is no list of numbers");
            at = *after == ',' ? after + 1 : after;
        }
        ov_status_e status = rank == 0 ? check_scalar(model, name)
                                       : ov_partial_shape_create_static(rank, sizes, &shapes[count]);
        if (status != OK)
            return status;
        if (rank == 0)
            continue;
        names[count++] = name;
    }
    ov_status_e status = count == 0 ? OK : ov_model_reshape(model, names, shapes, count);
    for (size_t i = 0; i < count; i++)
        ov_partial_shape_free(&shapes[i]);
    free(names);
    free(shapes);
    return status;
}

/* OpenVINO's C API takes options as arguments, and reads as many of them as it is told. */
static ov_status_e compile(const ov_core_t *core, const ov_model_t *model, const Request *request,
                           ov_compiled_model_t **compiled) {
    const char *o[2 * MAX_OPTIONS] = {0};
    size_t count = 0;
    for (size_t i = 0; i < request->count; i++) {
        const char *name = strip(request->fields[i].key, "option.");
        if (name == NULL)
            continue;
        if (count == 2 * MAX_OPTIONS)
            die("host: more than 32 options");
        o[count++] = name;
        o[count++] = request->fields[i].value;
    }
#define EIGHT(n) o[n], o[n + 1], o[n + 2], o[n + 3], o[n + 4], o[n + 5], o[n + 6], o[n + 7]
    return ov_core_compile_model(core, model, DEVICE, count, compiled, EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24),
                                 EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56));
}

/* The text of a compiled model's property, or NULL where it has none. */
static char *ask(const ov_compiled_model_t *compiled, const char *name) {
    char *value = NULL;
    return ov_compiled_model_get_property(compiled, name, &value) == OK ? value : NULL;
}

int main(void) {
    Request request = {0};
    ov_version_t version = {0};
    ov_core_t *core;
    ov_model_t *model;
    ov_compiled_model_t *compiled;
    char *compiler = NULL;
    ov_status_e status;

    _setmode(0, _O_BINARY);
    _setmode(1, _O_BINARY);
    read_request(&request);
    caller = CreateThread(NULL, 0, end_with_caller, NULL, 0, NULL);
    if (caller == NULL)
        die("host: cannot start a thread");

    begin("start");
    if ((status = ov_get_openvino_version(&version)) != OK || (status = ov_core_create(&core)) != OK)
        return fail_with(status);
    /* Before a property is set: one that the plugin refuses while it is loaded makes OpenVINO 2026.4.1 unload it, with
     * the exception's code in it, and crash. */
    if (ov_core_get_property(core, DEVICE, "NPU_COMPILER_VERSION", &compiler) != OK)
        compiler = NULL;
    if ((status = set_properties(core, &request)) != OK)
        return fail_with(status);
    begin("read");
    if ((status = ov_core_read_model(core, find(&request, "model"), find(&request, "weights"), &model)) != OK)
        return fail_with(status);
    if ((status = reshape(model, &request)) != OK)
        return fail_with(status);
    begin("compile");
    if ((status = compile(core, model, &request, &compiled)) != OK)
        return fail_with(status);
    begin("export");
    if ((status = ov_compiled_model_export_model(compiled, find(&request, "output"))) != OK)
        return fail_with(status);
    say("result", "requirements", ask(compiled, "RUNTIME_REQUIREMENTS"), "openvino", version.buildNumber, "compiler",
        compiler, NULL);
    return wait_for_end();
}
