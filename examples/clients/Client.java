// A client in Java 11, which has no reader of JSON: java Client.java http://localhost:8080 ../three.json
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Path;

public class Client {
    static final int TRIES = 5;

    /** Returns the answer to a predict request as JSON; throws with the server's message. */
    static String predict(HttpClient client, String url, Path body) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url + "/v1/models/model:predict"))
            .version(HttpClient.Version.HTTP_1_1)
            .POST(BodyPublishers.ofFile(body))
            .build();
        for (int attempt = 1; ; attempt++) {
            HttpResponse<String> response = client.send(request, BodyHandlers.ofString());
            int status = response.statusCode();
            if ((status == 429 || status == 503) && attempt < TRIES) {
                // The server is busy, or loads the model.
                Thread.sleep(1000 * response.headers().firstValueAsLong("Retry-After").orElse(1));
                continue;
            }
            if (status != 200) {
                throw new RuntimeException(status + ": " + response.body());
            }
            return response.body();
        }
    }

    public static void main(String[] arguments) throws Exception {
        System.out.println(predict(HttpClient.newHttpClient(), arguments[0], Path.of(arguments[1])));
    }
}
