import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Gets tokens with Java's own HttpClient, as programs do that use no library of Microsoft's. It
 * offers HTTP/2 with each request, and connects over IPv6 to IPv4's address. It sends to
 * 169.254.169.254 by nature; the suite runs it where that address is its own, and nobody else
 * should run it.
 *
 * <p>Arguments: managed client ID RESOURCE VAULT. VAULT is not used.
 */
final class Client {
  private static final String IMDS = "http://169.254.169.254/metadata/identity/oauth2/token";
  private static final Pattern TOKEN = Pattern.compile("\"access_token\":\"([^\"\\\\]+)\"");

  public static void main(String[] args) {
    List<String> tokens = new ArrayList<>();
    String error = "";
    try {
      if (!args[0].equals("managed") || !args[1].equals("client")) {
        throw new IllegalArgumentException("this client names an identity by client_id alone");
      }
      HttpClient client = HttpClient.newHttpClient();
      for (int i = 0; i < 2; i++) {
        tokens.add(token(client, args[2], args[3]));
      }
    } catch (Exception e) {
      error = e.toString().replaceAll("[^ -~]|[\"\\\\]", " ");
    }
    String list = tokens.isEmpty() ? "" : "\"" + String.join("\",\"", tokens) + "\"";
    System.out.println("{\"tokens\":[" + list + "],\"error\":\"" + error + "\"}");
  }

  private static String token(HttpClient client, String id, String resource) throws Exception {
    String query = "?api-version=2018-02-01&client_id=" + id
        + "&resource=" + URLEncoder.encode(resource, StandardCharsets.UTF_8);
    HttpRequest request = HttpRequest.newBuilder(URI.create(IMDS + query)).header("Metadata", "true").build();
    String body = client.send(request, BodyHandlers.ofString()).body();
    Matcher found = TOKEN.matcher(body);
    if (!found.find()) {
      throw new IllegalStateException("no token in " + body);
    }
    return found.group(1);
  }

  private Client() {}
}
